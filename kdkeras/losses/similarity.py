"""Soft targets for embeddings: to whom is this sentence similar?"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.layers.pooling import l2_normalize
from kdkeras.losses.arguments import scheduled
from kdkeras.losses.base import DistillationLoss
from kdkeras.replicas import all_rows, own_rows
from kdkeras.schedules import serialized, value_at

__all__ = ["SimilarityDistillation"]

# Losses are computed in float32: far below any cosine divided by a temperature.
_MASKED = -1e9


@keras.saving.register_keras_serializable(package="kdkeras")
class SimilarityDistillation(DistillationLoss):
    """Computes the divergence between distributions of in-batch similarity.

    Every sentence's similarities to the *teacher's* vectors of the batch (of
    all replicas, under a `tf.distribute` strategy) are turned into a
    distribution, once from the teacher's own vector and once from the
    student's. The student then learns the neighbourhood, not only the place.
    Needs batches of more than one example.

    Cost: two `B x N` matrices, `N` the batch of all replicas.

    Formula:

    ```
    p = softmax(cos(teacher, teacher) / temperature)
    q = softmax(cos(student, teacher) / temperature)
    loss = sum(p * log(p / q), over the batch)
    ```

    Args:
        temperature: Softening, above 0. Cosines span [-1, 1], so useful values
            are small. A float, or a schedule of the step. Defaults to 0.05.
        exclude_self: Whether a sentence is left out of its own distribution.

    Call arguments:
        y_true: `(B, d)` float, the teacher's embeddings.
        y_pred: `(B, d)` float, the student's.

    Returns:
        `(B,)` float32, at least 0, in nats.

    Raises:
        InputError: If `temperature` is not positive, or the shapes differ.

    References:
        Fang et al. (2021), SEED, arXiv:2101.04731, equation 4, with the batch
        in place of the queue.
    """

    takes = {"step": "step"}
    of_vectors, compares_rows = True, True

    def __init__(
        self,
        temperature: Any = 0.05,
        exclude_self: bool = False,
        target: str = "embedding",
        name: str = "similarity_distillation",
        **kwargs: Any,
    ) -> None:
        super().__init__(target=target, name=name, **kwargs)
        self.temperature = scheduled("temperature", temperature)
        self.exclude_self = bool(exclude_self)

    def loss(self, teacher: Any, student: Any, step: Any = None) -> Any:
        """Returns the divergence of each example's distribution, `(B,)`."""
        temperature = value_at(self.temperature, step)
        teacher, student = l2_normalize(teacher), l2_normalize(student)
        every_teacher = all_rows(teacher)
        keys = ops.transpose(every_teacher)  # (d, batch of all replicas)
        expected = ops.matmul(teacher, keys) / temperature  # (own batch, all)
        actual = ops.matmul(student, keys) / temperature
        if self.exclude_self:
            own = own_rows(teacher, every_teacher) * _MASKED
            expected, actual = expected + own, actual + own
        log_p = ops.log_softmax(expected, axis=-1)
        log_q = ops.log_softmax(actual, axis=-1)
        return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": serialized(self.temperature),
            "exclude_self": self.exclude_self,
        }
