"""What every loss of kdkeras shares: one value an example, teacher first."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.schedules import as_value, is_schedule, sampled

__all__ = [
    "BATCH_PARTS",
    "AlignmentLoss",
    "DistillationLoss",
    "ExampleLoss",
    "l2_normalize",
    "positive",
    "scheduled",
]

BATCH_PARTS = ("padding_mask", "token_ids", "label", "source_id", "step")
"""What a loss may read besides teacher targets: inputs of its side, the batch's labels, and the
number of updates that are done."""


def positive(name: str, value: float) -> float:
    """Returns `value` if it is above zero and finite.

    Raises:
        InputError: If it is not.
    """
    if not 0 < value < math.inf:
        raise InputError(
            f"`{name}` must be positive and finite. Received: {name}={value}. Use 1.0 if in doubt."
        )
    return float(value)


def scheduled(name: str, value: Any) -> Any:
    """Returns a positive float, or a schedule of the step (a temperature that changes).

    A loss that has one reads the step and asks for the value of the moment:

    ```
    takes = {"step": "step"}

    def __init__(self, temperature=1.0, ...):
        self.temperature = scheduled("temperature", temperature)

    def loss(self, teacher, student, step=None):
        temperature = value_at(self.temperature, step)
        ...

    def get_config(self):
        return {**super().get_config(), "temperature": serialized(self.temperature)}
    ```

    Raises:
        InputError: If it is not above zero and finite, also for a schedule at
            the steps where it turns.
    """
    value = as_value(value)
    if not is_schedule(value):
        return positive(name, value)
    for step, number in sampled(value):
        if not 0 < number < math.inf:
            raise InputError(
                f"`{name}` must be positive and finite at every step. Received: {name}={number:g} "
                f"at step {step}. Let the schedule end above zero."
            )
    return value


def l2_normalize(x: Any) -> Any:
    """Scales every row of `x` to unit length; a zero row stays zero.

    Args:
        x: Float tensor `(..., dim)`.

    Returns:
        Tensor of the same shape and dtype.
    """
    square = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(ops.maximum(square, 1e-12))


class ExampleLoss(keras.layers.Layer):
    """Base class of every loss: a layer that gives one value an example.

    A loss is a layer, so that weights of its own (a projection) are trained
    and saved. It returns **one value an example**: the `Distiller` alone
    weighs, sums and divides by the global batch, which is what makes one
    replica equal many. It always computes in float32.
    """

    needs: Mapping[str, str] = {}
    """Keyword arguments of `call` and the part of the batch that each is: one of
    `BATCH_PARTS`, or a teacher target by its name. A batch without it is refused."""
    takes: Mapping[str, str] = {}
    """The same for what is left out where the batch lacks it."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)


class AlignmentLoss(ExampleLoss):
    """Base class: compares a sentence with its translation.

    Subclasses implement `call(source, translation)`: `(B, d)` and `(B, d)`,
    the student's embeddings of both sides, to `(B,)` float32.
    """


class DistillationLoss(ExampleLoss):
    """Base class: compares what the student says with what the teacher said.

    Sends no gradient into the teacher. Subclasses implement
    `loss(teacher, student)`, with more arguments if they have `needs`.

    Args:
        target: Key of the teacher target that the loss reads, `"embedding"`
            or `"logits"`.
    """

    same_width = True
    """Whether teacher and student must have the same shape; False for relations between rows."""
    source_only = False
    """Whether the loss reads single tokens: a translation's are not those that the teacher read."""

    def __init__(self, target: str = "embedding", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = target

    def project(self, student: Any) -> Any:
        """Takes the student's output to the teacher's space, where a loss has a map for it."""
        return student

    def loss(self, teacher: Any, student: Any, *_: Any, **parts: Any) -> Any:
        """Formula of the loss: `(B, d)` and `(B, d)` to `(B,)`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `loss`.")

    def call(self, y_true: Any, y_pred: Any, **parts: Any) -> Any:
        """Computes the loss.

        Args:
            y_true: Float tensor `(B, ...)`, what the teacher said.
            y_pred: Float tensor `(B, ...)`, what the student says.
            **parts: What the loss `needs` and `takes`, by keyword.

        Returns:
            Float32 tensor `(B,)`.

        Raises:
            InputError: If the shapes cannot match.
        """
        teacher = ops.stop_gradient(ops.cast(y_true, "float32"))
        student = self.project(ops.cast(y_pred, "float32"))
        if not self.same_width:
            if len(teacher.shape) != 2 or len(student.shape) != 2:
                raise InputError(
                    "Relations are those of one vector a sentence. Received: teacher "
                    f"{tuple(teacher.shape)}, student {tuple(student.shape)} in `{self.name}`. "
                    "Pool the tokens first."
                )
        elif tuple(teacher.shape[1:]) != tuple(student.shape[1:]):
            raise InputError(
                "The teacher's target and the student's output must have equal shapes. "
                f"Received: teacher {tuple(teacher.shape)}, student {tuple(student.shape)} in "
                f"`{self.name}`. Set the student's output_dim to the teacher's width, or give "
                f"EmbeddingDistillation(projection={(student.shape[-1], teacher.shape[-1])})."
            )
        return self.loss(teacher, student, **parts)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "target": self.target}
