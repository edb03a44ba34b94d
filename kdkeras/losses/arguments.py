"""Checks of what the losses are made with."""

from __future__ import annotations

import math
from typing import Any

from kdkeras.errors import InputError
from kdkeras.schedules import as_value, is_number, is_schedule, sampled

__all__ = ["not_negative", "positive", "scheduled"]


def positive(name: str, value: float) -> float:
    """Returns `value` if it is above zero and finite.

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
    """Returns `value` if it is 0 or more, and finite.

    Raises:
        InputError: If it is not.
    """
    if not is_number(value) or not 0 <= value < math.inf:
        raise InputError(
            f"`{name}` must be 0 or more, and finite. Received: {name}={value!r}. Use 1.0 if in "
            "doubt."
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
