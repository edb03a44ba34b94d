"""Soft targets for logits that compare only the order and spread of the probabilities."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.losses.base import DistillationLoss
from kdkeras.losses.checks import not_negative, scheduled
from kdkeras.replicas import all_rows
from kdkeras.schedules import serialized, value_at

__all__ = ["CorrelationDistillation"]


@keras.saving.register_keras_serializable(package="kdkeras")
class CorrelationDistillation(DistillationLoss):
    """Computes one minus the correlation of student and teacher probabilities (DIST).

    The correlation is taken over the classes of each example, and over the
    examples of each class. Use it if the teacher is much larger than the
    student: the student learns which classes and examples the teacher prefers,
    without matching the probabilities exactly as in `SoftTargets`. The second
    part needs batches of more than one example.

    Cost: `B * V` for two softmaxes, and `V` columns over the batch of all
    replicas.

    Formula:

    ```
    p = softmax(logits / temperature)
    rows[i] = 1 - pearson(p_student[i, :], p_teacher[i, :])
    columns = mean_v(1 - pearson(p_student[:, v], p_teacher[:, v]))
    loss[i] = temperature^2 * (row_weight * rows[i] + column_weight * columns)
    ```

    Args:
        temperature: Softening of both distributions, above 0; a float, or a
            schedule of the step. Defaults to 1.0.
        row_weight: Weight of the relation between classes, at least 0.
            Defaults to 1.0.
        column_weight: Weight of the relation between examples, at least 0.
            Defaults to 1.0.
        target: Key of the teacher target. Defaults to `"logits"`.

    Call arguments:
        y_true: `(B, V)` float, the teacher's logits.
        y_pred: `(B, V)` float, the student's logits.
        step: Number of completed updates, an int scalar. Required if
            `temperature` is a schedule.

    Returns:
        `(B,)` float32, from 0 to `2 * temperature^2 * (row_weight + column_weight)`.

    Raises:
        InputError: If `temperature` is not positive, a weight is negative, or
            the shapes differ.

    References:
        Huang et al. (2022), arXiv:2205.10536, equations 6 to 10.
    """

    takes = {"step": "step"}
    of_vectors = True

    def __init__(
        self,
        temperature: Any = 1.0,
        row_weight: float = 1.0,
        column_weight: float = 1.0,
        target: str = "logits",
        name: str = "correlation_distillation",
        **kwargs: Any,
    ) -> None:
        super().__init__(target=target, name=name, **kwargs)
        self.temperature = scheduled("temperature", temperature)
        self.row_weight = not_negative("row_weight", row_weight)
        self.column_weight = not_negative("column_weight", column_weight)

    def loss(self, teacher: Any, student: Any, step: Any = None) -> Any:
        """Returns the loss of each example, `(B,)`."""
        temperature = value_at(self.temperature, step)
        teacher, student = (ops.softmax(z / temperature, axis=-1) for z in (teacher, student))
        rows = 1.0 - _pearson(teacher, student, axis=-1)
        columns = ops.mean(1.0 - _pearson(all_rows(teacher), all_rows(student), axis=0))
        return temperature**2 * (self.row_weight * rows + self.column_weight * columns)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "temperature": serialized(self.temperature),
            "row_weight": self.row_weight,
            "column_weight": self.column_weight,
        }


def _pearson(a: Any, b: Any, axis: int) -> Any:
    """Correlation along an axis; 0, with no gradient, where a side does not vary."""
    # After the mean is subtracted, this share of the sum of squares is rounding error.
    least_a, least_b = (1e-12 * ops.sum(ops.square(x), axis=axis) for x in (a, b))
    a, b = (x - ops.mean(x, axis=axis, keepdims=True) for x in (a, b))
    spread_a, spread_b = (ops.sum(ops.square(x), axis=axis) for x in (a, b))
    varies = ops.logical_and(spread_a > least_a + 1e-30, spread_b > least_b + 1e-30)
    scale = ops.rsqrt(ops.where(varies, spread_a, 1.0)) * ops.rsqrt(
        ops.where(varies, spread_b, 1.0)
    )
    return ops.where(varies, ops.sum(a * b, axis=axis) * scale, 0.0)
