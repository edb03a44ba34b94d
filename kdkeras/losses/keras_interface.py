"""The interface of `keras.distillation.Distiller`, for the losses of kdkeras."""

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
    """The methods that Keras' Distiller calls, for a layer that returns one value per example.

    Keras passes a loss only the outputs of the two models, no other part of
    the batch.
    """

    target: str
    needs: Mapping[str, str]
    takes: Mapping[str, str]
    has_memory: bool

    @property
    def student_output(self) -> str:
        """Name of the student output that the loss reads; by default that of the target."""
        return self.target

    def compute_loss(self, teacher_outputs: Any, student_outputs: Any, **parts: Any) -> Any:
        """Returns the mean over the batch, a float32 scalar.

        Args:
            teacher_outputs: A tensor, or a dict with the loss's `target`.
            student_outputs: A tensor, or a dict with the loss's
                `student_output`.
            **parts: Optional keyword arguments of the loss.

        Raises:
            InputError: If the outputs lack the target, or the shapes cannot
                match.
        """
        self.validate_outputs(teacher_outputs, student_outputs)
        teacher, student = (
            outputs[name] if isinstance(outputs, dict) else outputs
            for outputs, name in self._read(teacher_outputs, student_outputs)
        )
        values = self(teacher, student, **parts)  # type: ignore[operator]
        # Keras adds the values of all replicas: each returns its part of the mean.
        return ops.sum(values) / total(ops.cast(ops.shape(values)[0], "float32"))

    def validate_outputs(self, teacher_outputs: Any, student_outputs: Any) -> None:
        """Refuses dicts of outputs that lack the one that the loss reads.

        Raises:
            InputError: If it is missing.
        """
        for outputs, name in self._read(teacher_outputs, student_outputs):
            if isinstance(outputs, dict) and name not in outputs:
                raise InputError(
                    "Both models must return the output that the loss reads. Received: outputs "
                    f"{sorted(outputs)}, a loss on {name!r}. Add the output, or set the "
                    "loss's `target`."
                )

    def _read(self, teacher_outputs: Any, student_outputs: Any) -> list[tuple[Any, str]]:
        """The outputs of each model, with the name of the one that the loss reads."""
        return [(teacher_outputs, self.target), (student_outputs, self.student_output)]

    def validate_model_compatibility(self, teacher: Any, student: Any) -> None:
        """Refuses a loss that reads more than the two models' outputs, or that changes by step.

        Raises:
            InputError: If the loss needs other parts of the batch, keeps a
                memory of batches, or has a scheduled argument.
        """
        # The step matters only with a schedule, refused below; source ids are optional everywhere.
        read = {*self.needs.values(), *(set(self.takes.values()) - {"step", "source_id"})}
        if read:
            raise InputError(
                "keras.distillation.Distiller passes only the models' outputs to a loss. Received: "
                f"{type(self).__name__}, which reads {sorted(read)}. Use kdkeras.Distiller."
            )
        if self.has_memory:
            raise InputError(
                "keras.distillation.Distiller does not call a loss after a step. Received: "
                f"{type(self).__name__}, which keeps a memory of batches. Use kdkeras.Distiller."
            )
        if _has_schedule(self):
            raise InputError(
                "keras.distillation.Distiller does not pass the step to a loss. Received: "
                f"{type(self).__name__} with a schedule. Use a float, or kdkeras.Distiller."
            )


def _has_schedule(loss: Any) -> bool:
    """Whether an argument of the loss, or of a wrapped loss, is a schedule."""
    return any(
        is_schedule(value) or (isinstance(value, KerasInterface) and _has_schedule(value))
        for value in vars(loss).values()
    )
