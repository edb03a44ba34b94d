"""Soft targets in two parts: the label's class, and all others."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses.arguments import not_negative, scheduled
from kdkeras.losses.logits import LogitLoss
from kdkeras.schedules import serialized, value_at

__all__ = ["DecoupledDistillation"]

# Losses are computed in float32: far below any logit.
_MASKED = -1e9


@keras.saving.register_keras_serializable(package="kdkeras")
class DecoupledDistillation(LogitLoss):
    """Weighs how sure the teacher is of the label apart from what else it considers (DKD).

    Use it where the teacher is nearly certain: in `SoftTargets` the other
    classes count by `1 - p_teacher[label]`, here by a weight of their own.
    With `label_weight=1` and that in place of `other_weight` both are equal.

    Cost: `B * V`, that of a softmax on each side.

    Formula, `l` the label:

    ```
    p = softmax(logits / temperature)
    b = (p[l], 1 - p[l])                       # the label's class or another
    q = p[v] / (1 - p[l]), v != l              # which other
    loss = temperature ** 2 * (label_weight * KL(b_teacher || b_student)
                               + other_weight * KL(q_teacher || q_student))
    ```

    Args:
        temperature: Softening of both distributions, above 0; a float, or a
            schedule of the step. Defaults to 1.0.
        label_weight: The paper's alpha, at least 0. Defaults to 1.0.
        other_weight: The paper's beta, at least 0. Defaults to 1.0; larger the
            surer the teacher is (the paper uses up to 10).
        target: Key of the teacher target. Defaults to `"logits"`.

    Call arguments:
        y_true: `(B, V)` float, the teacher's logits.
        y_pred: The same shape, the student's logits.
        label: `(B,)` int, the true class, from 0 to `V - 1`; the batch's `label`.

    Returns:
        `(B,)` float32, at least 0, in nats.

    Raises:
        InputError: If `temperature` is not positive, a weight is negative, the
            shapes differ or are not `(B, V)`, or the label is no `(B,)` int.

    References:
        Zhao et al. (2022), arXiv:2203.08679, equation 7.
    """

    needs = {"label": "label"}
    takes = {"step": "step"}

    def __init__(
        self,
        temperature: Any = 1.0,
        label_weight: float = 1.0,
        other_weight: float = 1.0,
        target: str = "logits",
        name: str = "decoupled_distillation",
        **kwargs: Any,
    ) -> None:
        super().__init__(target=target, name=name, **kwargs)
        self.temperature = scheduled("temperature", temperature)
        self.label_weight = not_negative("label_weight", label_weight)
        self.other_weight = not_negative("other_weight", other_weight)

    def loss(self, teacher: Any, student: Any, label: Any, step: Any = None) -> Any:
        """Returns the weighted sum of both divergences of each example, `(B,)`."""
        label = ops.convert_to_tensor(label)
        if len(label.shape) != 1 or "int" not in keras.backend.standardize_dtype(label.dtype):
            raise InputError(
                f"`{self.name}` needs the number of each example's class, (B,) int. Received: "
                f"label {tuple(label.shape)} {keras.backend.standardize_dtype(label.dtype)}. Take "
                "the argmax of one-hot labels."
            )
        temperature = value_at(self.temperature, step)
        is_label = ops.one_hot(label, student.shape[-1], dtype="float32")
        (sure, others), (student_sure, student_others) = (
            _parted(logits / temperature, is_label) for logits in (teacher, student)
        )
        divergence = self.label_weight * _divergence(sure, student_sure)
        divergence = divergence + self.other_weight * _divergence(others, student_others)
        return temperature**2 * divergence

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": serialized(self.temperature),
            "label_weight": self.label_weight,
            "other_weight": self.other_weight,
        }

    def _for_other_rank(self) -> str:
        return "TokenSoftTargets"


def _parted(logits: Any, is_label: Any) -> tuple[Any, Any]:
    """Log-probabilities of label or other, `(B, 2)`, and of each other class, `(B, V)`."""
    of_label = ops.sum(logits * is_label, axis=-1)
    others = ops.where(is_label > 0, _MASKED, logits)
    # From a sum over the others: 1 - p[label] has no digits where the label is certain.
    two = ops.stack([of_label, ops.logsumexp(others, axis=-1)], axis=-1)
    return ops.log_softmax(two, axis=-1), ops.log_softmax(others, axis=-1)


def _divergence(log_p: Any, log_q: Any) -> Any:
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)
