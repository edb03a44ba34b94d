"""Distance from the student's embedding to the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.layers.pooling import l2_normalize
from kdkeras.losses.base import DistillationLoss
from kdkeras.losses.checks import projection_widths

__all__ = ["EmbeddingDistillation", "EmbeddingMetric"]


class EmbeddingMetric(StrEnum):
    """Distance between two embeddings."""

    COSINE = "cosine"
    MSE = "mse"
    L2 = "l2"


@keras.saving.register_keras_serializable(package="kdkeras")
class EmbeddingDistillation(DistillationLoss):
    """Computes the distance from the student's embedding to the teacher's.

    Use it for every embedding student with a teacher: the embeddings of the
    source sentence and of its translation are both trained towards the
    teacher's embedding of the source sentence, which can be cached. Adding
    `SimilarityDistillation` and `TranslationRanking` gives better retrieval
    than this loss alone.

    Cost: `B * d`; with a projection `B * d' * d`.

    Formula:

    ```
    cosine: loss = 1 - cos(teacher, student)
    mse:    loss = mean((teacher - student) ** 2)      # over the dimensions
    l2:     loss = sqrt(sum((teacher - student) ** 2))
    ```

    For unit vectors of `d` dimensions, `mse` equals `cosine` times `2 / d`.

    With `projection`, a linear map first takes the student's embedding to the
    teacher's space; use it if the widths differ. The map is trained and saved
    with the loss and is not part of the student. To include it,
    `kdkeras.students.fold_projection(student, loss.kernel)` multiplies it into
    the student's last Dense layer. LEAF is `"l2"` with a projection.

    Args:
        metric: `"cosine"` (default; its values do not depend on the width),
            `"mse"` (also trains the length of the embeddings), or `"l2"` (as
            `"mse"`, with less influence of distant examples).
        projection: Widths of student and teacher, `(d', d)`. Defaults to None:
            the embeddings are compared unchanged.
        target: Key of the teacher target. Defaults to `"embedding"`.

    Call arguments:
        y_true: `(B, d)` float, the teacher's embeddings.
        y_pred: `(B, d)` float, the student's embeddings; with `projection`
            `(B, d')`.

    Returns:
        `(B,)` float32, at least 0; at most 2 for `"cosine"`. The gradient of
        `"l2"` is 0 where teacher and student are equal.

    Raises:
        InputError: If the metric is unknown, a width is below 1, or the shapes
            differ.

    Example:
    >>> import numpy as np
    >>> teacher, student = np.array([[1.0, 0.0]]), np.array([[0.0, 3.0]])
    >>> float(EmbeddingDistillation()(teacher, student)[0])
    1.0

    References:
        Reimers, Gurevych (2020), arXiv:2004.09813, equation 1; LEAF (2025),
        arXiv:2509.12539.
    """

    of_vectors = True

    def __init__(
        self,
        metric: str = EmbeddingMetric.COSINE,
        projection: Sequence[int] | None = None,
        target: str = "embedding",
        name: str = "embedding_distillation",
        **kwargs: Any,
    ) -> None:
        super().__init__(target=target, name=name, **kwargs)
        if metric not in list(EmbeddingMetric):
            raise InputError(
                f"`metric` must be one of {[str(m) for m in EmbeddingMetric]}. "
                f"Received: metric={metric!r}. Use 'cosine' for unit-norm teachers."
            )
        self.metric = EmbeddingMetric(metric)
        self.projection = projection_widths(projection)
        self.kernel = None
        if self.projection is not None:
            self.kernel = self.add_weight(
                shape=self.projection, initializer="orthogonal", name="projection"
            )

    def project(self, student: Any) -> Any:
        """Returns the student's embeddings in the teacher's space."""
        if self.kernel is None:
            return student
        if student.shape[-1] != self.kernel.shape[0]:
            raise InputError(
                "`projection` must begin with the student's width. Received: "
                f"projection={list(self.kernel.shape)}, student {tuple(student.shape)} in "
                f"`{self.name}`. Use ({student.shape[-1]}, {self.kernel.shape[1]})."
            )
        return ops.matmul(student, self.kernel)

    def check_student(self, student: Any) -> None:
        """Refuses a student whose width differs from the projection's."""
        self.project(student)

    def loss(self, teacher: Any, student: Any) -> Any:
        """Returns the distance of each example, `(B,)`."""
        if self.metric is EmbeddingMetric.MSE:
            return ops.mean(ops.square(teacher - student), axis=-1)
        if self.metric is EmbeddingMetric.L2:
            square = ops.sum(ops.square(teacher - student), axis=-1)
            apart = square > 0
            # The square root has no finite gradient at zero.
            return ops.where(apart, ops.sqrt(ops.where(apart, square, 1.0)), 0.0)
        return 1.0 - ops.sum(l2_normalize(teacher) * l2_normalize(student), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "metric": str(self.metric), "projection": self.projection}
