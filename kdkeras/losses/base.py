"""What every loss of kdkeras shares: one value an example, teacher first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses.keras_interface import KerasInterface

__all__ = [
    "BATCH_PARTS",
    "AlignmentLoss",
    "DistillationLoss",
    "ExampleLoss",
    "may_match",
    "real_token_mean",
]

BATCH_PARTS = ("padding_mask", "token_ids", "label", "source_id", "step")
"""What a loss may read besides teacher targets: inputs of its side, the batch's labels, and the
number of updates that are done."""


def may_match(one: Any, other: Any) -> bool:
    """Whether two shapes can be equal; a length that is not known can be any."""
    return len(one) == len(other) and all(
        None in (m, n) or m == n for m, n in zip(one, other, strict=True)
    )


def real_token_mean(values: Any, padding_mask: Any) -> Any:
    """Averages `(B, L)` over the real tokens, to `(B,)`; 0 for a row without any."""
    mask = ops.cast(padding_mask, values.dtype)
    return ops.sum(values * mask, axis=-1) / ops.maximum(ops.sum(mask, axis=-1), 1.0)


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
    has_memory = False
    """Whether the loss keeps something of the batches: `after_step` must then be called."""
    compares_rows = False
    """Whether the loss reads a row beside the others of its batch: of one row it says nothing."""
    may_be_negative = False
    """Whether the least value is below zero."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)

    def after_step(self, targets: Mapping[str, Any], kept: Any) -> None:
        """Hears what the teacher said of a training step's rows, once its update is done.

        For a loss with a memory; never called in evaluation. Does nothing
        unless a subclass says what.

        Args:
            targets: The teacher's targets by name, of this replica's rows;
                with `micro_batches` the parts come one after the other.
            kept: Scalar bool, the same on all replicas: false where the step
                was not finite and must leave no trace.
        """

    def check_student(self, student: Any) -> None:
        """Refuses an output of the student that the loss cannot read, whatever the teacher says.

        Args:
            student: Tensors, or `keras.KerasTensor`s where there is no batch yet.

        Raises:
            InputError: If the shapes do not fit the loss.
        """


class AlignmentLoss(ExampleLoss):
    """Base class: compares a sentence with its translation.

    Subclasses implement `call(source, translation)`: `(B, d)` and `(B, d)`,
    the student's embeddings of both sides, to `(B,)` float32.
    """


class DistillationLoss(ExampleLoss, KerasInterface):
    """Base class: compares what the student says with what the teacher said.

    Sends no gradient into the teacher. Subclasses implement
    `loss(teacher, student)`, with more arguments if they have `needs`, and
    `student_output` where the target is no output of a student. Also runs
    inside `keras.distillation.Distiller`.

    Args:
        target: Key of the teacher target that the loss reads, `"embedding"`
            or `"logits"`.
    """

    same_width = True
    """Whether teacher and student must have the same shape; False for relations between rows."""
    of_vectors = False
    """Whether it compares one vector a row, and not one a token."""
    source_only = False
    """Whether the loss reads single tokens: a translation's are not those that the teacher read."""

    def __init__(self, target: str = "embedding", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = target

    def project(self, student: Any) -> Any:
        """Takes the student's output to the teacher's space, where a loss has a map for it."""
        return student

    # `*_` makes mypy take a subclass's own parts for what they are.
    def loss(self, teacher: Any, student: Any, *_: Any, **parts: Any) -> Any:
        """Formula of the loss: `(B, d)` and `(B, d)` to `(B,)`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `loss`.")

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuses what cannot be compared, before an hour of training.

        Args:
            teacher: What the teacher says: tensors, or `keras.KerasTensor`s
                where there is no batch yet.
            student: What the student says, projected.

        Raises:
            InputError: If the shapes cannot match.
        """
        ranks = {len(teacher.shape), len(student.shape)}
        equal_rows = may_match(teacher.shape[:1], student.shape[:1])
        if self.of_vectors and not (ranks == {2} and equal_rows):
            raise InputError(
                "The loss compares one vector a sentence, `(B, d)` on both sides. Received: "
                f"teacher {tuple(teacher.shape)}, student {tuple(student.shape)} in `{self.name}`. "
                "Pool the tokens first, or take a loss on tokens or hidden states."
            )
        if self.same_width and not may_match(teacher.shape[1:], student.shape[1:]):
            raise InputError(
                "The teacher's target and the student's output must have equal shapes. "
                f"Received: teacher {tuple(teacher.shape)}, student {tuple(student.shape)} in "
                f"`{self.name}`. Set the student's output_dim to the teacher's width, or give "
                f"EmbeddingDistillation(projection={(student.shape[-1], teacher.shape[-1])})."
            )

    def call(self, y_true: Any, y_pred: Any, **parts: Any) -> Any:
        """Computes the loss.

        Args:
            y_true: Float tensor `(B, ...)`, or a structure of them: what the
                teacher said.
            y_pred: The same of the student.
            **parts: What the loss `needs` and `takes`, by keyword.

        Returns:
            Float32 tensor `(B,)`.

        Raises:
            InputError: If the shapes cannot match.
        """
        teacher, student = (
            keras.tree.map_structure(lambda x: ops.cast(x, "float32"), y) for y in (y_true, y_pred)
        )
        teacher = keras.tree.map_structure(ops.stop_gradient, teacher)
        student = self.project(student)
        self.check_shapes(teacher, student)
        return self.loss(teacher, student, **parts)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "target": self.target}
