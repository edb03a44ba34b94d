"""Soft targets for embeddings: how sentences stand to each other, not where."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.layers.pooling import l2_normalize
from kdkeras.losses.base import DistillationLoss
from kdkeras.replicas import all_rows, own_rows

__all__ = ["RelationalAngle", "RelationalDistance", "SimilarityMatrix"]

# Squared distance, in units of the squared lengths, below which it is rounding.
_APART = 2e-6


@keras.saving.register_keras_serializable(package="kdkeras")
class SimilarityMatrix(DistillationLoss):
    """Computes the squared difference of all cosines in the batch.

    The student's width may differ from the teacher's. Cost: one `B x B`
    matrix of each, over the batch of all replicas.

    Formula:

    ```
    loss[i] = mean_j((cos(student_i, student_j) - cos(teacher_i, teacher_j))^2)
    ```

    Call arguments:
        y_true: `(B, d)` float, the teacher's embeddings.
        y_pred: `(B, d')` float, the student's.

    Returns:
        `(B,)` float32, from 0 to 4.

    Raises:
        InputError: If the numbers of rows differ.

    References:
        Tung, Mori (2019), arXiv:1907.09682, with cosines in place of
        row-normalised products.
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
    """Compares distances between sentences, in units of their mean (RKD-D).

    Invariant to moving, rotating and scaling all embeddings of a side; the
    student's width may differ from the teacher's. Cost: one `B x B` matrix of
    each, over the batch of all replicas, which must have two rows or more.

    Formula:

    ```
    psi(i, j) = |e_i - e_j| / mean_{k != l}(|e_k - e_l|)
    loss[i] = mean_{j != i}(huber(psi_student(i, j) - psi_teacher(i, j)))
    huber(x) = x^2 / 2 if |x| <= 1 else |x| - 1/2
    ```

    Call arguments:
        y_true: `(B, d)` float, the teacher's embeddings.
        y_pred: `(B, d')` float, the student's.

    Returns:
        `(B,)` float32, at least 0.

    Raises:
        InputError: If the numbers of rows differ.

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
    """Compares the angles that pairs of sentences make at a third one (RKD-A).

    Invariant to moving, rotating and scaling all embeddings of a side; the
    student's width may differ from the teacher's. Cost: `B * n * (n + d)` numbers,
    where `n` is the number of sentences that the angles' sides point to: the
    first `max_neighbours` of the batch of all replicas.

    Formula:

    ```
    u(j, i) = (e_i - e_j) / |e_i - e_j|, 0 where both are equal
    loss[j] = mean_{i != k, both != j}(huber(u(j, i) . u(j, k), student minus teacher))
    ```

    Args:
        max_neighbours: The largest `n`, 3 or more. Defaults to 64.

    Call arguments:
        y_true: `(B, d)` float, the teacher's embeddings.
        y_pred: `(B, d')` float, the student's.

    Returns:
        `(B,)` float32, from 0 to 1.5; 0 with fewer than three rows.

    Raises:
        InputError: If `max_neighbours` is below 3, or the numbers of rows
            differ.

    References:
        Park et al. (2019), arXiv:1904.05068, equations 8 and 9.
    """

    same_width, of_vectors, compares_rows = False, True, True

    def __init__(
        self,
        max_neighbours: int = 64,
        target: str = "embedding",
        name: str = "relational_angle",
        **kwargs: Any,
    ) -> None:
        super().__init__(target=target, name=name, **kwargs)
        if max_neighbours < 3:
            raise InputError(
                f"`max_neighbours` must be 3 or more: an angle needs three sentences. Received: "
                f"max_neighbours={max_neighbours}. Use 64 if in doubt."
            )
        self.max_neighbours = int(max_neighbours)

    def loss(self, teacher: Any, student: Any) -> Any:
        """Returns the mean over the angles at each sentence, `(B,)`."""
        others = _others(teacher)[:, : self.max_neighbours]  # (B, n)
        pairs = others[:, :, None] * others[:, None, :] * (1.0 - ops.eye(ops.shape(others)[1]))
        difference = self._cosines_of_angles(student) - self._cosines_of_angles(teacher)
        sums = ops.sum(_huber(difference) * pairs, axis=(1, 2))
        return ops.divide_no_nan(sums, ops.sum(pairs, axis=(1, 2)))

    def _cosines_of_angles(self, rows: Any) -> Any:
        """`(B, n, n)`: at each sentence, between the directions to two others."""
        neighbours = all_rows(rows)[: self.max_neighbours]
        towards = _directions(rows, neighbours)
        return ops.matmul(towards, ops.transpose(towards, (0, 2, 1)))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "max_neighbours": self.max_neighbours}


def _others(rows: Any) -> Any:
    """`(B, N)` float32: 0 where a column is the row itself, else 1."""
    return 1.0 - own_rows(rows, all_rows(rows))


def _cosines(rows: Any) -> Any:
    """`(B, N)`: of own rows with all rows."""
    rows = l2_normalize(rows)
    return ops.matmul(rows, ops.transpose(all_rows(rows)))


def _relative_distances(rows: Any) -> Any:
    """`(B, N)`: of own rows to all rows, in units of the mean distance of all."""
    every = all_rows(rows)
    # Around their mean, so that the squares below are no larger than they have to be.
    centre = ops.mean(every, axis=0)
    distances = _distances(rows - centre, every - centre)
    count = ops.cast(ops.shape(every)[0], "float32")
    total = ops.sum(all_rows(ops.sum(distances, axis=-1)))
    return distances * ops.divide_no_nan(count * (count - 1.0), total)


def _distances(a: Any, b: Any) -> Any:
    """`(len(a), len(b))`; 0, without a slope, where float32 cannot tell the rows apart."""
    squares = ops.sum(ops.square(a), -1)[:, None] + ops.sum(ops.square(b), -1)[None, :]
    square = squares - 2.0 * ops.matmul(a, ops.transpose(b))
    apart = square > _APART * squares
    return ops.where(apart, ops.sqrt(ops.where(apart, square, 1.0)), 0.0)


def _directions(rows: Any, ends: Any) -> Any:
    """`(B, n, d)`, of length 1; 0 where float32 cannot tell the rows apart."""
    difference = ends[None, :, :] - rows[:, None, :]
    square = ops.sum(ops.square(difference), -1)
    squares = ops.sum(ops.square(rows), -1)[:, None] + ops.sum(ops.square(ends), -1)[None, :]
    apart = square > _APART * squares
    length = ops.sqrt(ops.where(apart, square, 1.0))
    return ops.where(apart[:, :, None], difference / length[:, :, None], 0.0)


def _huber(x: Any) -> Any:
    size = ops.abs(x)
    return ops.where(size <= 1.0, 0.5 * ops.square(x), size - 0.5)
