"""What lets a loss of kdkeras run inside `keras.distillation.Distiller`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.replicas import total
from kdkeras.schedules import is_schedule

__all__ = ["KerasInterface"]


class KerasInterface(keras.distillation.DistillationLoss):
    """The methods that Keras' Distiller calls, for a layer that gives one value an example.

    Keras hands a loss the two models' outputs and nothing else of the batch.
    """

    target: str
    needs: Mapping[str, str]
    takes: Mapping[str, str]
    has_memory: bool

    @property
    def student_output(self) -> str:
        """Name of the student's output that the loss reads; that of the target if not told."""
        return self.target

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **parts: Any) -> Any:
        """Returns the mean over the batch, a float32 scalar.

        Args:
            teacher_outputs: A tensor, or a dict of which the loss's `target` is read.
            student_outputs: The same of the student.
            **parts: What the loss takes besides, by keyword.

        Raises:
            InputError: If the outputs lack the target or their shapes cannot match.
        """
        self.validate_outputs(teacher_outputs, student_outputs)
        teacher, student = (
            outputs[name] if isinstance(outputs, dict) else outputs
            for outputs, name in self._read(teacher_outputs, student_outputs)
        )
        values = self(teacher, student, **parts)  # type: ignore[operator]
        # Keras adds up what the replicas give: each gives its part of the mean.
        return ops.sum(values) / total(ops.cast(ops.shape(values)[0], "float32"))

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Refuses dicts of outputs without what the loss reads.

        Raises:
            InputError: If it is missing.
        """
        for outputs, name in self._read(teacher_outputs, student_outputs):
            if isinstance(outputs, dict) and name not in outputs:
                raise InputError(
                    f"Both models must return what the loss reads. Received: outputs "
                    f"{sorted(outputs)}, a loss on {name!r}. Add the output, or set the "
                    "loss's `target`."
                )

    def _read(self, teacher_outputs: Any, student_outputs: Any) -> list[tuple[Any, str]]:
        """Both models' outputs, and which of them the loss reads."""
        return [(teacher_outputs, self.target), (student_outputs, self.student_output)]

    def validate_model_compatibility(self, teacher: Any, student: Any) -> None:
        """Refuses a loss that reads more than the two models' outputs, or hears of each step.

        Raises:
            InputError: If the loss needs other parts of the batch, remembers
                batches, or has a temperature that changes.
        """
        # A step is not missed where nothing changes, and a mask always.
        read = {*self.needs.values(), *(set(self.takes.values()) - {"step", "source_id"})}
        if read:
            raise InputError(
                "keras.distillation.Distiller hands a loss the models' outputs only. Received: "
                f"{type(self).__name__}, which reads {sorted(read)}. Use kdkeras.Distiller."
            )
        if self.has_memory:
            raise InputError(
                "keras.distillation.Distiller does not tell a loss when a step is done. Received: "
                f"{type(self).__name__}, which remembers batches. Use kdkeras.Distiller."
            )
        if _changes(self):
            raise InputError(
                "keras.distillation.Distiller does not tell a loss which step it is. Received: "
                f"{type(self).__name__}, with a schedule. Use a float, or kdkeras.Distiller."
            )


def _changes(loss: Any) -> bool:
    """Whether an argument of the loss, or of one inside it, is a schedule."""
    return any(
        is_schedule(value) or (isinstance(value, KerasInterface) and _changes(value))
        for value in vars(loss).values()
    )
