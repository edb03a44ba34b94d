"""A masked language model that can grow: its head is the projection of a student."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.students import TransformerStudent

__all__ = ["MaskedLanguageModel", "WarmupLinear", "body"]


def body(
    tokens: int, length: int, hidden_dim: int, num_layers: int, num_heads: int
) -> TransformerStudent:
    """Returns an encoder whose projection, `hidden_dim` to `tokens`, is the head.

    The projection reads the hidden axis, so `grow` and `grow_optimizer` extend it like
    any other weight. The table has two more rows: the mask and the boundary between
    sentences.
    """
    return TransformerStudent(
        tokens + 2,
        tokens,
        num_layers=num_layers,
        hidden_dim=hidden_dim,
        num_heads=num_heads,
        intermediate_dim=4 * hidden_dim,
        dropout=0.0,
        normalize=False,
        sequence_length=length,
    )


class MaskedLanguageModel(keras.Model):
    """Computes logits for the masked positions of each row.

    Args:
        student: A student from `body` or `grow`.

    Call arguments:
        inputs: `{"token_ids": (B, L), "padding_mask": (B, L), "positions": (B, K)}`, int32.

    Returns:
        `(B, K, tokens)` float32.
    """

    def __init__(self, student: TransformerStudent) -> None:
        super().__init__()
        self.student = student

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Returns the logits."""
        hidden = self.student.hidden_states(inputs, training)[-1]
        chosen = ops.take_along_axis(hidden, inputs["positions"][..., None], axis=1)
        return self.student.projection(chosen)


@keras.saving.register_keras_serializable(package="kdkeras_benchmarks")
class WarmupLinear(keras.optimizers.schedules.LearningRateSchedule):
    """Linear warm-up from 0 to `rate`, then linear decay to 0 at the last step.

    Args:
        rate: Maximum learning rate.
        warmup: Number of warm-up steps.
        steps: Number of steps of the training.
        start: Step of the optimizer at the start of the training.
    """

    def __init__(self, rate: float, warmup: int, steps: int, start: int = 0) -> None:
        self.rate, self.warmup, self.steps, self.start = rate, warmup, steps, start

    def __call__(self, step: Any) -> Any:
        """Returns the learning rate at a step."""
        step = ops.cast(step, "float32") - self.start
        rise = (step + 1) / self.warmup
        fall = (self.steps - step) / (self.steps - self.warmup)
        return self.rate * ops.clip(ops.minimum(rise, fall), 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {n: getattr(self, n) for n in ("rate", "warmup", "steps", "start")}
