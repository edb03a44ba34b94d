"""Soft targets in two parts: the class of the label, and all other classes."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses.checks import not_negative, scheduled
from kdkeras.losses.formulas import MASKED, divergence
from kdkeras.losses.logits import LogitLoss
from kdkeras.schedules import serialized, value_at

__all__ = ["DecoupledDistillation"]


@keras.saving.register_keras_serializable(package="kdkeras")
class DecoupledDistillation(LogitLoss):
    """Computes soft targets with separate weights for the label and the other classes (DKD).

    Use it if the teacher is nearly certain of the labels: in `SoftTargets` the
    divergence among the other classes is multiplied by
    `1 - p_teacher[label]`, which is then close to 0; here it has a weight of
    its own. With `label_weight=1` and that factor as `other_weight` both losses
    are equal.

    Cost: `B * V`, a softmax on each side.

    Formula, where `l` is the label:

    ```
    p = softmax(logits / temperature)
    b = (p[l], 1 - p[l])                       # the label's class, any other class
    q = p[v] / (1 - p[l]), v != l              # among the other classes
    loss = temperature ** 2 * (label_weight * KL(b_teacher || b_student)
                               + other_weight * KL(q_teacher || q_student))
    ```

    Args:
        temperature: Softening of both distributions, above 0; a float, or a
            schedule of the step. Defaults to 1.0.
        label_weight: The paper's alpha, at least 0. Defaults to 1.0.
        other_weight: The paper's beta, at least 0. Use larger values for a more
            certain teacher (the paper uses up to 10). Defaults to 1.0.
        target: Key of the teacher target. Defaults to `"logits"`.

    Call arguments:
        y_true: `(B, V)` float, the teacher's logits.
        y_pred: `(B, V)` float, the student's logits.
        label: `(B,)` int, the true class, from 0 to `V - 1`; the batch's
            `label`.
        step: Number of completed updates, an int scalar. Required if
            `temperature` is a schedule.

    Returns:
        `(B,)` float32, at least 0, in nats.

    Raises:
        InputError: If `temperature` is not positive, a weight is negative, the
            shapes differ or are not `(B, V)`, or the label is not `(B,)` int.

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
        """Returns the weighted sum of both divergences, `(B,)`."""
        temperature = value_at(self.temperature, step)
        is_label = self._is_label(label, student.shape[-1])
        (label_p, other_p), (label_q, other_q) = (
            _log_parts(logits / temperature, is_label) for logits in (teacher, student)
        )
        total = self.label_weight * divergence(label_p, label_q)
        total = total + self.other_weight * divergence(other_p, other_q)
        return temperature**2 * total

    def _is_label(self, label: Any, classes: int) -> Any:
        """One-hot labels, `(B, V)` float32."""
        label = ops.convert_to_tensor(label)
        dtype = keras.backend.standardize_dtype(label.dtype)
        if len(label.shape) != 1 or "int" not in dtype:
            raise InputError(
                f"`{self.name}` needs the class of each example, (B,) int. Received: label "
                f"{tuple(label.shape)} {dtype}. Use the argmax of one-hot labels."
            )
        return ops.one_hot(label, classes, dtype="float32")

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


def _log_parts(logits: Any, is_label: Any) -> tuple[Any, Any]:
    """Log-probabilities of (label, any other), `(B, 2)`, and among the others, `(B, V)`."""
    of_label = ops.sum(logits * is_label, axis=-1)
    others = ops.where(is_label > 0, MASKED, logits)
    # From the sum over the others: 1 - p[label] rounds to 0 where the label is certain.
    two = ops.stack([of_label, ops.logsumexp(others, axis=-1)], axis=-1)
    return ops.log_softmax(two, axis=-1), ops.log_softmax(others, axis=-1)
