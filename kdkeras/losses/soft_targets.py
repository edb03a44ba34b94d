"""Soft targets for logits."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.losses.base import DistillationLoss, scheduled
from kdkeras.schedules import serialized, value_at

__all__ = ["SoftTargets"]


@keras.saving.register_keras_serializable(package="kdkeras")
class SoftTargets(DistillationLoss):
    """Computes the softened Kullback–Leibler divergence from teacher to student.

    Use it where teacher and student choose among the same classes. The factor
    `temperature ** 2` keeps the gradient's size independent of the temperature.

    Formula:

    ```
    p = softmax(logits / temperature)
    loss = temperature ** 2 * sum(p_teacher * log(p_teacher / p_student))
    ```

    With `standardize`, each side's logits first lose their mean and are divided
    by their standard deviation over the classes: the student then learns the
    teacher's order and spread, whatever the size of its own logits.

    For sequences of logits `(B, T, V)` the divergence is averaged over `T`.

    Args:
        temperature: Softening of both distributions, above 0. 1.0 leaves them
            as they are. A float, or a schedule of the step.
        standardize: Whether logits are standardised first. Then useful
            temperatures are about 2.
        target: Key of the teacher target. Defaults to `"logits"`.

    Call arguments:
        y_true: `(B, V)` or `(B, T, V)` float, the teacher's logits.
        y_pred: The same shape, the student's logits.

    Returns:
        `(B,)` float32, at least 0, in nats.

    Raises:
        InputError: If `temperature` is not positive, or the shapes differ.

    Example:
    >>> import numpy as np
    >>> logits = np.array([[2.0, 0.0]])
    >>> float(SoftTargets()(logits, logits)[0])
    0.0

    References:
        Hinton, Vinyals, Dean (2015), arXiv:1503.02531, section 2; standardised: Sun et
        al. (2024), arXiv:2403.01427, algorithm 1.
    """

    takes = {"step": "step"}

    def __init__(
        self,
        temperature: Any = 1.0,
        standardize: bool = False,
        target: str = "logits",
        name: str = "soft_targets",
        **kwargs: Any,
    ) -> None:
        super().__init__(target=target, name=name, **kwargs)
        self.temperature = scheduled("temperature", temperature)
        self.standardize = bool(standardize)

    def loss(self, teacher: Any, student: Any, step: Any = None) -> Any:
        """Returns the divergence of each example, `(B,)`."""
        temperature = value_at(self.temperature, step)
        if self.standardize:
            teacher, student = _standardized(teacher), _standardized(student)
        log_teacher = ops.log_softmax(teacher / temperature, axis=-1)
        log_student = ops.log_softmax(student / temperature, axis=-1)
        divergence = ops.sum(ops.exp(log_teacher) * (log_teacher - log_student), axis=-1)
        if len(divergence.shape) > 1:
            divergence = ops.mean(divergence, axis=tuple(range(1, len(divergence.shape))))
        return temperature**2 * divergence

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": serialized(self.temperature),
            "standardize": self.standardize,
        }


def _standardized(logits: Any) -> Any:
    """Mean 0 and standard deviation 1 over the classes; equal logits become 0."""
    logits = logits - ops.mean(logits, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(logits), axis=-1, keepdims=True)
    return logits * ops.rsqrt(ops.maximum(variance, 1e-12))
