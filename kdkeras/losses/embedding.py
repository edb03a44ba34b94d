"""The student's embedding pulled to the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.layers.pooling import l2_normalize
from kdkeras.losses.base import DistillationLoss

__all__ = ["EmbeddingDistillation", "EmbeddingMetric"]


class EmbeddingMetric(StrEnum):
    """How far two embeddings are apart."""

    COSINE = "cosine"
    MSE = "mse"
    L2 = "l2"


@keras.saving.register_keras_serializable(package="kdkeras")
class EmbeddingDistillation(DistillationLoss):
    """Computes the distance from the student's embedding to the teacher's.

    The multilingual recipe: source sentence and translation are both pulled to
    the teacher's vector of the source sentence. The teacher's vectors can
    always be cached.

    Formula:

    ```
    cosine: loss = 1 - cos(teacher, student)
    mse:    loss = mean((teacher - student) ** 2)      # over the dimensions
    l2:     loss = sqrt(sum((teacher - student) ** 2))
    ```

    For unit vectors of `d` dimensions the second is the first times `2 / d`.

    With `projection` a linear map, trained and saved with the loss, takes the
    student's vectors to the teacher's space first: for a student narrower or
    wider than its teacher. The map is no part of the student:
    `kdkeras.students.fold_projection(student, loss.kernel)` multiplies it into the
    student's last Dense, so that the student itself speaks the teacher's
    space. LEAF is `"l2"` with a projection. Cost: `B * d` (`B * d' * d` with a
    projection).

    Args:
        metric: `"cosine"` (the default; values of one size whatever the
            width), `"mse"` (also teaches the length of the vectors), or `"l2"`
            (the same, with far rows counting less).
        projection: Widths of student and teacher, `(d', d)`; None (the
            default) compares the vectors as they are.

    Call arguments:
        y_true: `(B, d)` float, the teacher's embeddings.
        y_pred: `(B, d)` float, the student's; with `projection` `(B, d')`.

    Returns:
        `(B,)` float32; cosine between 0 and 2. The slope of `"l2"` is 0 where both
        sides are equal.

    Raises:
        InputError: If the metric is unknown, a width is below 1, or the shapes
            differ.

    Example:
    >>> import numpy as np
    >>> teacher, student = np.array([[1.0, 0.0]]), np.array([[0.0, 3.0]])
    >>> float(EmbeddingDistillation()(teacher, student)[0])
    1.0

    References:
        Reimers, Gurevych (2020), arXiv:2004.09813, equation 1; LEAF,
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
        self.projection = None if projection is None else [int(width) for width in projection]
        self.kernel = None if self.projection is None else self._add_kernel(self.projection)

    def _add_kernel(self, widths: list[int]) -> Any:
        if len(widths) != 2 or min(widths) < 1:
            raise InputError(
                "`projection` must be the widths of student and teacher. Received: "
                f"projection={widths}. Use e.g. (256, 384)."
            )
        return self.add_weight(shape=widths, initializer="orthogonal", name="projection")

    def project(self, student: Any) -> Any:
        """Returns the student's vectors in the teacher's space."""
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
        """Refuses a width that the projection does not begin with."""
        self.project(student)

    def loss(self, teacher: Any, student: Any) -> Any:
        """Returns the distance of each example, `(B,)`."""
        if self.metric is EmbeddingMetric.MSE:
            return ops.mean(ops.square(teacher - student), axis=-1)
        if self.metric is EmbeddingMetric.L2:
            square = ops.sum(ops.square(teacher - student), axis=-1)
            apart = square > 0
            # The root has no slope at zero.
            return ops.where(apart, ops.sqrt(ops.where(apart, square, 1.0)), 0.0)
        return 1.0 - ops.sum(l2_normalize(teacher) * l2_normalize(student), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "metric": str(self.metric), "projection": self.projection}
