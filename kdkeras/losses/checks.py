"""Checks of the arguments and shapes that losses are given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from kdkeras.errors import InputError
from kdkeras.schedules import as_value, is_number, is_schedule, sampled

__all__ = ["may_match", "not_negative", "positive", "projection_widths", "scheduled"]


def may_match(one: Any, other: Any) -> bool:
    """Whether two shapes can be equal; an unknown length (None) matches any length."""
    return len(one) == len(other) and all(
        None in (m, n) or m == n for m, n in zip(one, other, strict=True)
    )


def positive(name: str, value: float) -> float:
    """Returns `value` as a float if it is positive and finite.

    Raises:
        InputError: If it is not.
    """
    if not is_number(value) or not 0 < value < math.inf:
        raise InputError(
            f"`{name}` must be positive and finite. Received: {name}={value!r}. Use 1.0 if in "
            "doubt."
        )
    return float(value)


def not_negative(name: str, value: float) -> float:
    """Returns `value` as a float if it is 0 or more, and finite.

    Raises:
        InputError: If it is not.
    """
    if not is_number(value) or not 0 <= value < math.inf:
        raise InputError(
            f"`{name}` must be 0 or more, and finite. Received: {name}={value!r}. Use 0.0 to "
            "disable it."
        )
    return float(value)


def scheduled(name: str, value: Any) -> Any:
    """Returns a positive float, or a schedule of the training step.

    A loss with such an argument takes the step and evaluates the argument at it:

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
        InputError: If the value is not positive and finite. A schedule is
            checked at its turning points.
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


def projection_widths(projection: Sequence[int] | None) -> list[int] | None:
    """Returns the widths of student and teacher, or None without a projection.

    Raises:
        InputError: If these are not two widths of at least 1.
    """
    if projection is None:
        return None
    widths = [int(width) for width in projection]
    if len(widths) != 2 or min(widths) < 1:
        raise InputError(
            "`projection` must be the widths of student and teacher. Received: "
            f"projection={widths}. Use e.g. (256, 384)."
        )
    return widths
