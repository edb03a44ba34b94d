"""Soft targets for embeddings: similarities to the other sentences of the batch."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.layers.pooling import l2_normalize
from kdkeras.losses.base import DistillationLoss
from kdkeras.losses.checks import scheduled
from kdkeras.losses.formulas import MASKED, cosine_matrix, divergence
from kdkeras.replicas import all_rows, own_rows
from kdkeras.schedules import serialized, value_at

__all__ = ["SimilarityDistillation"]


@keras.saving.register_keras_serializable(package="kdkeras")
class SimilarityDistillation(DistillationLoss):
    """Computes the divergence between two distributions of similarity within the batch.

    The similarities of a sentence to the *teacher's* embeddings of the batch
    become a distribution by softmax, once for the teacher's embedding of the
    sentence and once for the student's. The student thus learns which sentences
    are close to each other. Use it with `EmbeddingDistillation` and batches
    of more than one example. For small batches use `QueueDistillation`, which
    also compares with thousands of embeddings of earlier batches.

    Cost: two `B x N` matrices, where `N` is the batch of all replicas.

    Formula:

    ```
    p = softmax(cos(teacher, teachers of the batch) / temperature)
    q = softmax(cos(student, teachers of the batch) / temperature)
    loss = sum(p * log(p / q))      # over the batch of all replicas
    ```

    Args:
        temperature: Softening, above 0. Cosines are in [-1, 1], so useful
            values are small. A float, or a schedule of the step. Defaults to
            0.05.
        exclude_self: Whether to exclude a sentence from its own distribution.
            Defaults to False.
        target: Key of the teacher target. Defaults to `"embedding"`.

    Call arguments:
        y_true: `(B, d)` float, the teacher's embeddings.
        y_pred: `(B, d)` float, the student's embeddings.
        step: Number of completed updates, an int scalar. Required if
            `temperature` is a schedule.

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
        """Returns the divergence of each example, `(B,)`."""
        temperature = value_at(self.temperature, step)
        teacher, student = l2_normalize(teacher), l2_normalize(student)
        keys = all_rows(teacher)
        scores = [cosine_matrix(rows, keys) / temperature for rows in (teacher, student)]
        if self.exclude_self:
            own = own_rows(teacher, keys)
            scores = [z + MASKED * own for z in scores]
        return divergence(*(ops.log_softmax(z, axis=-1) for z in scores))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": serialized(self.temperature),
            "exclude_self": self.exclude_self,
        }
