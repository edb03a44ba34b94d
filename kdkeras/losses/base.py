"""Base classes of the losses: one value per example, teacher first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses.checks import may_match
from kdkeras.losses.keras_interface import KerasInterface

__all__ = ["BATCH_PARTS", "AlignmentLoss", "DistillationLoss", "ExampleLoss"]

BATCH_PARTS = ("padding_mask", "token_ids", "label", "source_id", "step")
"""What a loss may read besides teacher targets: inputs of the compared side, the batch's labels and
source ids, and the number of completed updates."""


class ExampleLoss(keras.layers.Layer):
    """Base class of every loss: a layer that returns one value per example.

    A loss is a layer, so that its own weights (such as a projection) are
    trained and saved. It returns **one value per example**: only the
    `Distiller` applies sample weights, sums, and divides by the global batch
    size, which makes training on one replica equal to training on several. It
    always computes in float32.
    """

    needs: Mapping[str, str] = {}
    """Required keyword arguments of `call`, each with the part of the batch that it receives: one
    of `BATCH_PARTS`, or a teacher target by name. A batch without the part is refused."""
    takes: Mapping[str, str] = {}
    """Optional keyword arguments of `call`, omitted where the batch lacks the part."""
    has_memory = False
    """Whether the loss keeps state between batches; `after_step` must then be called."""
    compares_rows = False
    """Whether the loss compares an example with the others of its batch. A batch of size one then
    has nothing to learn from."""
    may_be_negative = False
    """Whether the minimum of the loss is below zero."""

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)

    def after_step(self, targets: Mapping[str, Any], kept: Any) -> None:
        """Updates the state of a loss with a memory after a training step.

        Never called in evaluation. Does nothing by default.

        Args:
            targets: The teacher targets of this replica's examples, by name.
                With `micro_batches` it is called once for each part.
            kept: Scalar bool, the same on all replicas. False if the step was
                not finite; the state must then stay unchanged.
        """

    def check_student(self, student: Any) -> None:
        """Refuses a student output that the loss cannot read, whatever the teacher's targets.

        Args:
            student: Tensors, or `keras.KerasTensor`s before the first batch.

        Raises:
            InputError: If the shapes do not fit the loss.
        """


class AlignmentLoss(ExampleLoss):
    """Base class of losses that compare a sentence with its translation.

    Subclasses implement `call(source, translation)`, where both are the
    student's embeddings `(B, d)`, and return `(B,)` float32.
    """


class DistillationLoss(ExampleLoss, KerasInterface):
    """Base class of losses that compare the student's output with a teacher target.

    No gradient flows into the teacher. Subclasses implement
    `loss(teacher, student)`, with further arguments if they have `needs` or
    `takes`, and override `student_output` if the student's output has another
    name than the target. Also works inside `keras.distillation.Distiller`.

    Args:
        target: Key of the teacher target that the loss reads, such as
            `"embedding"` (the default) or `"logits"`.
    """

    same_width = True
    """Whether teacher and student must have equal shapes; False for losses that compare relations
    between examples."""
    of_vectors = False
    """Whether the loss compares one vector per example, not one per token."""
    source_only = False
    """Whether the loss compares single tokens. It is then computed for the source side only,
    because the teacher did not read the tokens of the translation."""

    def __init__(self, target: str = "embedding", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target = target

    def project(self, student: Any) -> Any:
        """Maps the student's output to the teacher's space; the identity by default."""
        return student

    # Without `*_`, mypy refuses the named arguments of subclasses.
    def loss(self, teacher: Any, student: Any, *_: Any, **parts: Any) -> Any:
        """Formula of the loss: `(B, d)` and `(B, d)` to `(B,)`."""
        raise NotImplementedError(f"{type(self).__name__} must implement `loss`.")

    def check_shapes(self, teacher: Any, student: Any) -> None:
        """Refuses outputs that cannot be compared.

        Args:
            teacher: The teacher's output: tensors, or `keras.KerasTensor`s
                before the first batch.
            student: The student's output, projected.

        Raises:
            InputError: If the shapes cannot match.
        """
        ranks = {len(teacher.shape), len(student.shape)}
        equal_rows = may_match(teacher.shape[:1], student.shape[:1])
        if self.of_vectors and not (ranks == {2} and equal_rows):
            raise InputError(
                "The loss compares one vector per sentence, `(B, d)` on both sides. Received: "
                f"teacher {tuple(teacher.shape)}, student {tuple(student.shape)} in `{self.name}`. "
                "Pool the tokens first, or use a loss on tokens or hidden states."
            )
        if self.same_width and not may_match(teacher.shape[1:], student.shape[1:]):
            raise InputError(
                "The teacher's target and the student's output must have equal shapes. "
                f"Received: teacher {tuple(teacher.shape)}, student {tuple(student.shape)} in "
                f"`{self.name}`. Set the student's output_dim to the teacher's width, or use "
                f"EmbeddingDistillation(projection={(student.shape[-1], teacher.shape[-1])})."
            )

    def call(self, y_true: Any, y_pred: Any, **parts: Any) -> Any:
        """Computes the loss.

        Args:
            y_true: Float tensor `(B, ...)`, or a structure of them: the
                teacher's output.
            y_pred: The same of the student.
            **parts: The keyword arguments in `needs` and `takes`.

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
