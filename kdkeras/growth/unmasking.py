"""From masked units to plain ones: the schedule, and the end of it."""

from __future__ import annotations

from typing import Any

import keras

from kdkeras.errors import InputError
from kdkeras.growth.larger import assign_values, model_values
from kdkeras.schedules import as_value, serialized, value_at
from kdkeras.students import MaskedTransformerStudent, TransformerStudent

__all__ = ["MaskSchedule", "unmask"]


@keras.saving.register_keras_serializable(package="kdkeras")
class MaskSchedule(keras.callbacks.Callback):
    """Moves the mask of a growing student with the optimizer's steps.

    Before each batch, and at the end, the mask is what the schedule is at the number
    of updates that are done, held between 0 and 1. A training that is resumed has
    the right mask, since the optimizer's count is in its checkpoint. With
    `steps_per_execution` it moves once an execution.

    Args:
        schedule: A float or a schedule (see `kdkeras.schedules`), e.g.
            `LinearWarmup(target=1.0, steps=2_000)`.

    Raises:
        InputError: When training starts with a student that is not masked.
    """

    def __init__(self, schedule: Any) -> None:
        super().__init__()
        self.schedule = as_value(schedule)

    def on_train_begin(self, logs: Any = None) -> None:
        """Finds the student."""
        if not isinstance(self._student(), MaskedTransformerStudent):
            raise InputError(
                "A mask is moved in a student that has one. Received: "
                f"{type(self._student()).__name__}. Grow it with MaskedGrowth() or MaskedLayers()."
            )
        self._move()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Moves the mask."""
        self._move()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Moves the mask to where the last update leads, so that what is saved has it."""
        self._move()

    def _student(self) -> Any:
        return getattr(self.model, "student", self.model)

    def _move(self) -> None:
        level = float(value_at(self.schedule, self.model.optimizer.iterations.value))
        self._student().mask = min(max(level, 0.0), 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"schedule": serialized(self.schedule)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MaskSchedule:
        """Returns the callback that `get_config` described."""
        return cls(**config)


def unmask(student: MaskedTransformerStudent) -> TransformerStudent:
    """Makes a plain student out of one whose masks are at 1.

    Args:
        student: What `grow` made by `MaskedGrowth` or `MaskedLayers`, trained until
            its `mask` is 1; it stays as it is.

    Returns:
        A student of its own with the same weights and function.

    Raises:
        InputError: If it is no masked student, or its mask is not 1.
    """
    if not isinstance(student, MaskedTransformerStudent):
        raise InputError(
            f"Masks are taken from a student that has some. Received: {type(student).__name__}. "
            "Use the student as it is."
        )
    if student.mask != 1.0:
        raise InputError(
            f"Masks are taken away when they are at 1. Received: a mask at {student.mask:g}. "
            "Train on with MaskSchedule until its schedule is at 1."
        )
    config = student.get_config()
    for name in ("masked", "masked_layers"):
        del config[name]
    plain = TransformerStudent.from_config(config)
    plain._hold(student.vocabulary)
    assign_values(plain, model_values(student))
    return plain
