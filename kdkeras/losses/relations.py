"""Losses that compare cosines, distances and angles between sentences; widths may differ."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.layers.pooling import l2_normalize
from kdkeras.losses.base import DistillationLoss
from kdkeras.losses.formulas import cosine_matrix
from kdkeras.replicas import all_rows, own_rows

__all__ = ["RelationalAngle", "RelationalDistance", "SimilarityMatrix"]

# Squared distances below this share of the squared lengths are rounding error.
_APART = 2e-6


@keras.saving.register_keras_serializable(package="kdkeras")
class SimilarityMatrix(DistillationLoss):
    """Computes the mean squared difference of all cosines within the batch.

    Use it if the student's width differs from the teacher's and a projection is
    not wanted. If the widths are equal, `SimilarityDistillation` is stronger,
    because it compares with the teacher's embeddings themselves and
    concentrates on near neighbors.

    Cost: one `B x N` matrix per side, where `N` is the batch of all replicas.

    Formula:

    ```
    loss[i] = mean_j((cos(student_i, student_j) - cos(teacher_i, teacher_j))^2)
    ```

    Args:
        target: Key of the teacher target. Defaults to `"embedding"`.

    Call arguments:
        y_true: `(B, d)` float, the teacher's embeddings.
        y_pred: `(B, d')` float, the student's embeddings.

    Returns:
        `(B,)` float32, from 0 to 4.

    Raises:
        InputError: If the batch sizes differ.

    References:
        Tung, Mori (2019), arXiv:1907.09682, with cosines in place of
        row-normalized products.
    """

    same_width, of_vectors, compares_rows = False, True, True

    def __init__(
        self, target: str = "embedding", name: str = "similarity_matrix", **kwargs: Any
    ) -> None:
        super().__init__(target=target, name=name, **kwargs)

    def loss(self, teacher: Any, student: Any) -> Any:
        """Returns the mean squared difference of each row of the matrices, `(B,)`."""
        difference = _cosines(student) - _cosines(teacher)
        return ops.mean(ops.square(difference), axis=-1)


@keras.saving.register_keras_serializable(package="kdkeras")
class RelationalDistance(DistillationLoss):
    """Computes the Huber loss of relative distances between sentences (RKD-D).

    Distances are relative to their mean, so the loss is invariant to
    translation, rotation and scaling of all embeddings of a side. Use it if
    the student's width differs from the teacher's and only distances matter;
    for unit-length embeddings `SimilarityMatrix` is simpler. The batch of all
    replicas needs at least two examples.

    Cost: one `B x N` matrix per side, where `N` is the batch of all replicas.

    Formula:

    ```
    psi(i, j) = |e_i - e_j| / mean_{k != l}(|e_k - e_l|)
    loss[i] = mean_{j != i}(huber(psi_student(i, j) - psi_teacher(i, j)))
    huber(x) = x^2 / 2 if |x| <= 1 else |x| - 1/2
    ```

    Args:
        target: Key of the teacher target. Defaults to `"embedding"`.

    Call arguments:
        y_true: `(B, d)` float, the teacher's embeddings.
        y_pred: `(B, d')` float, the student's embeddings.

    Returns:
        `(B,)` float32, at least 0.

    Raises:
        InputError: If the batch sizes differ.

    References:
        Park et al. (2019), arXiv:1904.05068, equations 5 to 7.
    """

    same_width, of_vectors, compares_rows = False, True, True

    def __init__(
        self, target: str = "embedding", name: str = "relational_distance", **kwargs: Any
    ) -> None:
        super().__init__(target=target, name=name, **kwargs)

    def loss(self, teacher: Any, student: Any) -> Any:
        """Returns the mean over the other sentences, `(B,)`."""
        difference = _relative_distances(student) - _relative_distances(teacher)
        return ops.divide_no_nan(ops.sum(_huber(difference), -1), ops.sum(_others(teacher), -1))


@keras.saving.register_keras_serializable(package="kdkeras")
class RelationalAngle(DistillationLoss):
    """Computes the Huber loss of the angles that pairs of sentences form at a third (RKD-A).

    The loss is invariant to translation, rotation and scaling of all embeddings
    of a side. Use it with `RelationalDistance`; the paper combines both.

    Cost: `B * n * (n + d)` numbers, where `n` is the number of neighbors: the
    first `max_neighbors` of the batch of all replicas.

    Formula:

    ```
    u(j, i) = (e_i - e_j) / |e_i - e_j|, 0 where both are equal
    loss[j] = mean_{i != k, both != j}(huber(u(j, i) . u(j, k), student minus teacher))
    ```

    Args:
        max_neighbors: Maximum of `n`, at least 3. Defaults to 64.
        target: Key of the teacher target. Defaults to `"embedding"`.

    Call arguments:
        y_true: `(B, d)` float, the teacher's embeddings.
        y_pred: `(B, d')` float, the student's embeddings.

    Returns:
        `(B,)` float32, from 0 to 1.5; 0 for fewer than three examples.

    Raises:
        InputError: If `max_neighbors` is below 3, or the batch sizes differ.

    References:
        Park et al. (2019), arXiv:1904.05068, equations 8 and 9.
    """

    same_width, of_vectors, compares_rows = False, True, True

    def __init__(
        self,
        max_neighbors: int = 64,
        target: str = "embedding",
        name: str = "relational_angle",
        **kwargs: Any,
    ) -> None:
        super().__init__(target=target, name=name, **kwargs)
        if max_neighbors < 3:
            raise InputError(
                f"`max_neighbors` must be 3 or more: an angle needs three sentences. Received: "
                f"max_neighbors={max_neighbors}. Use 64 if in doubt."
            )
        self.max_neighbors = int(max_neighbors)

    def loss(self, teacher: Any, student: Any) -> Any:
        """Returns the mean over the angles at each sentence, `(B,)`."""
        others = _others(teacher)[:, : self.max_neighbors]  # (B, n)
        pairs = others[:, :, None] * others[:, None, :] * (1.0 - ops.eye(ops.shape(others)[1]))
        difference = self._cosines_of_angles(student) - self._cosines_of_angles(teacher)
        sums = ops.sum(_huber(difference) * pairs, axis=(1, 2))
        return ops.divide_no_nan(sums, ops.sum(pairs, axis=(1, 2)))

    def _cosines_of_angles(self, rows: Any) -> Any:
        """At each sentence, between the directions to two others, `(B, n, n)`."""
        neighbors = all_rows(rows)[: self.max_neighbors]
        directions = _directions(rows, neighbors)
        return ops.matmul(directions, ops.transpose(directions, (0, 2, 1)))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "max_neighbors": self.max_neighbors}


def _others(rows: Any) -> Any:
    """0 where a column is the row itself, else 1, `(B, N)` float32."""
    return 1.0 - own_rows(rows, all_rows(rows))


def _cosines(rows: Any) -> Any:
    """Cosines of this replica's rows with all rows, `(B, N)`."""
    rows = l2_normalize(rows)
    return cosine_matrix(rows, all_rows(rows))


def _relative_distances(rows: Any) -> Any:
    """Distances of this replica's rows to all rows, relative to the mean of all, `(B, N)`."""
    every = all_rows(rows)
    # Distances from the mean keep the squares in `_distances` small, for precision.
    center = ops.mean(every, axis=0)
    distances = _distances(rows - center, every - center)
    count = ops.cast(ops.shape(every)[0], "float32")
    total = ops.sum(all_rows(ops.sum(distances, axis=-1)))
    return distances * ops.divide_no_nan(count * (count - 1.0), total)


def _distances(a: Any, b: Any) -> Any:
    """Distances, `(len(a), len(b))`; 0, with no gradient, where they are rounding error."""
    squares = ops.sum(ops.square(a), -1)[:, None] + ops.sum(ops.square(b), -1)[None, :]
    square = squares - 2.0 * ops.matmul(a, ops.transpose(b))
    apart = square > _APART * squares
    return ops.where(apart, ops.sqrt(ops.where(apart, square, 1.0)), 0.0)


def _directions(rows: Any, ends: Any) -> Any:
    """Unit vectors from rows to ends, `(B, n, d)`; 0 where the distance is rounding error."""
    difference = ends[None, :, :] - rows[:, None, :]
    square = ops.sum(ops.square(difference), -1)
    squares = ops.sum(ops.square(rows), -1)[:, None] + ops.sum(ops.square(ends), -1)[None, :]
    apart = square > _APART * squares
    length = ops.sqrt(ops.where(apart, square, 1.0))
    return ops.where(apart[:, :, None], difference / length[:, :, None], 0.0)


def _huber(x: Any) -> Any:
    size = ops.abs(x)
    return ops.where(size <= 1.0, 0.5 * ops.square(x), size - 0.5)
