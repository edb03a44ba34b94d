"""Soft targets for logits, of sentences and of tokens."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.losses.arguments import scheduled
from kdkeras.losses.logits import LogitLoss, OfTokens, standardized
from kdkeras.schedules import serialized, value_at

__all__ = ["SoftTargets", "TokenSoftTargets"]


@keras.saving.register_keras_serializable(package="kdkeras")
class SoftTargets(LogitLoss):
    """Computes the softened Kullback–Leibler divergence from teacher to student.

    Use it where teacher and student choose among the same classes. The factor
    `temperature ** 2` keeps the gradient's size independent of the temperature.

    Cost: `B * V`, that of a softmax on each side.

    Formula:

    ```
    p = softmax(logits / temperature)
    loss = temperature ** 2 * sum(p_teacher * log(p_teacher / p_student))
    ```

    With `standardize`, each side's logits first lose their mean and are divided
    by their standard deviation over the classes: the student then learns the
    teacher's order and spread, whatever the size of its own logits.

    Args:
        temperature: Softening of both distributions, above 0. 1.0 leaves them
            as they are. A float, or a schedule of the step.
        standardize: Whether logits are standardised first. Then useful
            temperatures are about 2.
        target: Key of the teacher target. Defaults to `"logits"`.

    Call arguments:
        y_true: `(B, V)` float, the teacher's logits.
        y_pred: The same shape, the student's logits.

    Returns:
        `(B,)` float32, at least 0, in nats.

    Raises:
        InputError: If `temperature` is not positive, or the shapes differ or
            are not `(B, V)`.

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
        """Returns the divergence of each distribution."""
        temperature = value_at(self.temperature, step)
        if self.standardize:
            teacher, student = standardized(teacher), standardized(student)
        log_teacher = ops.log_softmax(teacher / temperature, axis=-1)
        log_student = ops.log_softmax(student / temperature, axis=-1)
        divergence = ops.sum(ops.exp(log_teacher) * (log_teacher - log_student), axis=-1)
        return temperature**2 * divergence

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": serialized(self.temperature),
            "standardize": self.standardize,
        }


@keras.saving.register_keras_serializable(package="kdkeras")
class TokenSoftTargets(OfTokens, SoftTargets):
    """Computes `SoftTargets` for every token: word-level knowledge distillation.

    Use it for taggers and for sequence-to-sequence students whose decoder reads
    the same prefixes as the teacher's. Padding counts nothing, and a sentence
    counts the same whatever its length; one without a real token gives 0. It
    is computed for the source side only.

    Cost: `B * T * V`, that of a softmax on each side.

    Formula:

    ```
    loss = sum_t(real[t] * SoftTargets(teacher[t], student[t])) / sum_t(real[t])
    ```

    Args:
        temperature: As in `SoftTargets`.
        standardize: As in `SoftTargets`.
        padding_mask: Name of the student's input that says which tokens are
            real, without its side: `"padding_mask"` (the default), or
            `"decoder_padding_mask"` for what a batch holds as
            `source_decoder_padding_mask`. None if no token is padding.
        target: Key of the teacher target. Defaults to `"logits"`.

    Call arguments:
        y_true: `(B, T, V)` float, the teacher's logits.
        y_pred: The same shape, the student's logits.
        padding_mask: `(B, T)` int, float or bool, 1 for a real token.

    Returns:
        `(B,)` float32, at least 0, in nats a token.

    Raises:
        InputError: If `temperature` is not positive, the shapes differ or are
            not `(B, T, V)`, or the mask is missing or of another length.

    References:
        Kim, Rush (2016), arXiv:1606.07947, section 3.1, there summed over the
        tokens and without a temperature.
    """

    def __init__(
        self,
        temperature: Any = 1.0,
        standardize: bool = False,
        padding_mask: str | None = "padding_mask",
        target: str = "logits",
        name: str = "token_soft_targets",
        **kwargs: Any,
    ) -> None:
        super().__init__(
            padding_mask=padding_mask,
            temperature=temperature,
            standardize=standardize,
            target=target,
            name=name,
            **kwargs,
        )
