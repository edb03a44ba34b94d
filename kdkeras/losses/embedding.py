"""The student's embedding pulled to the teacher's."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses.base import DistillationLoss, l2_normalize

__all__ = ["EmbeddingDistillation", "EmbeddingMetric"]


class EmbeddingMetric(StrEnum):
    """How far two embeddings are apart."""

    COSINE = "cosine"
    MSE = "mse"


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
    ```

    For unit vectors of `d` dimensions the second is the first times `2 / d`.

    Args:
        metric: `"cosine"` (the default; values of one size whatever the
            width) or `"mse"` (also teaches the length of the vectors).

    Call arguments:
        y_true: `(B, d)` float, the teacher's embeddings.
        y_pred: `(B, d)` float, the student's.

    Returns:
        `(B,)` float32; cosine between 0 and 2.

    Raises:
        InputError: If the metric is unknown, or the shapes differ.

    Example:
    >>> import numpy as np
    >>> teacher, student = np.array([[1.0, 0.0]]), np.array([[0.0, 3.0]])
    >>> float(EmbeddingDistillation()(teacher, student)[0])
    1.0

    References:
        Reimers, Gurevych (2020), arXiv:2004.09813, equation 1.
    """

    def __init__(
        self,
        metric: str = EmbeddingMetric.COSINE,
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

    def loss(self, teacher: Any, student: Any) -> Any:
        """Returns the distance of each example, `(B,)`."""
        if self.metric is EmbeddingMetric.MSE:
            return ops.mean(ops.square(teacher - student), axis=-1)
        return 1.0 - ops.sum(l2_normalize(teacher) * l2_normalize(student), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "metric": str(self.metric)}
