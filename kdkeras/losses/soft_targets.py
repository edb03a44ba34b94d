"""Soft targets for logits, per sentence and per token."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.losses.checks import scheduled
from kdkeras.losses.formulas import divergence, standardized
from kdkeras.losses.logits import LogitLoss, PerToken
from kdkeras.schedules import serialized, value_at

__all__ = ["SoftTargets", "TokenSoftTargets"]


@keras.saving.register_keras_serializable(package="kdkeras")
class SoftTargets(LogitLoss):
    """Computes the softened Kullback–Leibler divergence of student and teacher probabilities.

    Use it for classifiers if teacher and student have the same classes. The
    factor `temperature ** 2` keeps the size of the gradient independent of the
    temperature. `DecoupledDistillation` is stronger if the teacher is nearly
    certain, `CorrelationDistillation` if the teacher is much larger than the
    student.

    Cost: `B * V`, a softmax on each side.

    Formula:

    ```
    p = softmax(logits / temperature)
    loss = temperature ** 2 * sum(p_teacher * log(p_teacher / p_student))
    ```

    With `standardize`, the logits of each side are first scaled to mean 0 and
    standard deviation 1 over the classes: the student then learns the order and
    relative distances of the teacher's logits, but not their scale.

    Args:
        temperature: Softening of both distributions, above 0; 1.0 does not
            soften. A float, or a schedule of the step. Defaults to 1.0.
        standardize: Whether to standardize the logits first; useful
            temperatures are then about 2. Defaults to False.
        target: Key of the teacher target. Defaults to `"logits"`.

    Call arguments:
        y_true: `(B, V)` float, the teacher's logits.
        y_pred: `(B, V)` float, the student's logits.
        step: Number of completed updates, an int scalar. Required if
            `temperature` is a schedule.

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
        Hinton, Vinyals, Dean (2015), arXiv:1503.02531, section 2; for
        `standardize`, Sun et al. (2024), arXiv:2403.01427, algorithm 1.
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
        log_p, log_q = (ops.log_softmax(z / temperature, axis=-1) for z in (teacher, student))
        return temperature**2 * divergence(log_p, log_q)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": serialized(self.temperature),
            "standardize": self.standardize,
        }


@keras.saving.register_keras_serializable(package="kdkeras")
class TokenSoftTargets(PerToken, SoftTargets):
    """Computes soft targets for every token, averaged over the real tokens of each example.

    This is word-level knowledge distillation. Use it for taggers, and for
    sequence-to-sequence students whose decoder reads the same prefixes as the
    teacher's. Every sentence has the same weight, whatever its length. It is
    computed for the source side only. With `TokenCrossEntropy` on the teacher's
    beam search output it can be combined with sequence-level distillation.

    Cost: `B * T * V`, a softmax on each side.

    Formula:

    ```
    loss = sum_t(real[t] * SoftTargets(teacher[t], student[t])) / sum_t(real[t])
    ```

    Args:
        temperature: Softening, above 0, as in `SoftTargets`. Defaults to 1.0.
        standardize: Whether to standardize the logits first, as in
            `SoftTargets`. Defaults to False.
        padding_mask: Name of the student's input that marks the real tokens,
            without its side: `"padding_mask"` (default), or
            `"decoder_padding_mask"` for `source_decoder_padding_mask` in the
            batch. None if no token is padding.
        target: Key of the teacher target. Defaults to `"logits"`.

    Call arguments:
        y_true: `(B, T, V)` float, the teacher's logits.
        y_pred: `(B, T, V)` float, the student's logits.
        padding_mask: `(B, T)` int, float or bool, 1 = real token.
        step: Number of completed updates, an int scalar. Required if
            `temperature` is a schedule.

    Returns:
        `(B,)` float32, at least 0, in nats per token; 0 for an example without
        a real token.

    Raises:
        InputError: If `temperature` is not positive, the shapes differ or are
            not `(B, T, V)`, or the mask is missing or has another length.

    References:
        Kim, Rush (2016), arXiv:1606.07947, section 3.1 (there summed over the
        tokens, and without a temperature).
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
