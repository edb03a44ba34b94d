"""Schedules of the training step, for loss weights, temperatures and learning rates.

Where kdkeras takes a value that may change during training, it takes a float or
any `keras.optimizers.schedules.LearningRateSchedule`: `PolynomialDecay`
(linear), `CosineDecay`, `PiecewiseConstantDecay`, or one of those below that
Keras lacks. The step is the number of completed updates.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from typing import Any

import keras
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule as Schedule

from kdkeras.errors import InputError

__all__ = ["Delayed", "LinearDecay", "LinearWarmup", "Piecewise", "Rewarmed", "Schedule"]

_MANY = 2**20
"""More steps than a training usually has."""


@keras.saving.register_keras_serializable(package="kdkeras")
class LinearWarmup(Schedule):
    """Changes linearly to a target value, then stays constant.

    Use it to warm up a learning rate or a loss weight.

    Formula:

    ```
    value(step) = initial + (target - initial) * min(step / steps, 1)
    ```

    Args:
        target: Value from step `steps` on.
        steps: Number of updates until then, at least 1.
        initial: Value at step 0. Defaults to 0.0.

    Raises:
        InputError: If `steps` is below 1.

    Example:
    >>> float(LinearWarmup(target=2.0, steps=4)(1))
    0.5
    """

    def __init__(self, target: float, steps: int, initial: float = 0.0) -> None:
        super().__init__()
        self.target, self.initial = float(target), float(initial)
        self.steps = _positive_steps("steps", steps)

    def __call__(self, step: Any) -> Any:
        """Returns the value at a step, a float32 scalar."""
        done = ops.minimum(ops.cast(step, "float32") / self.steps, 1.0)
        return self.initial + (self.target - self.initial) * done

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"target": self.target, "steps": self.steps, "initial": self.initial}


@keras.saving.register_keras_serializable(package="kdkeras")
class LinearDecay(Schedule):
    """Decays linearly to zero within a fraction of the training, then stays zero.

    Use it for a loss that helps only at the beginning, or for a learning rate.

    Formula:

    ```
    value(step) = initial * max(0, 1 - step / (fraction * total_steps))
    ```

    Args:
        initial: Value at step 0.
        fraction: Fraction of the training after which the value is zero, above
            0 and at most 1.
        total_steps: Number of updates of the whole training, at least 1.

    Raises:
        InputError: If an argument is out of its range.

    Example:
    >>> decay = LinearDecay(initial=1.0, fraction=0.5, total_steps=100)
    >>> [float(decay(step)) for step in (0, 25, 50, 80)]
    [1.0, 0.5, 0.0, 0.0]
    """

    def __init__(self, initial: float, fraction: float, total_steps: int) -> None:
        super().__init__()
        if not 0 < fraction <= 1:
            raise InputError(
                "`fraction` must be above 0 and at most 1. "
                f"Received: fraction={fraction}. Use 0.5 for the first half of the training."
            )
        self.initial, self.fraction = float(initial), float(fraction)
        self.total_steps = _positive_steps("total_steps", total_steps)

    def __call__(self, step: Any) -> Any:
        """Returns the value at a step, a float32 scalar."""
        done = ops.cast(step, "float32") / (self.fraction * self.total_steps)
        return self.initial * ops.maximum(1.0 - done, 0.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "initial": self.initial,
            "fraction": self.fraction,
            "total_steps": self.total_steps,
        }


@keras.saving.register_keras_serializable(package="kdkeras")
class Delayed(Schedule):
    """Starts a schedule at a later step, and has its first value until then.

    Formula:

    ```
    value(step) = schedule(max(0, step - start))
    ```

    Args:
        schedule: A float or a schedule.
        start: Step at which the schedule starts, at least 0.

    Raises:
        InputError: If `start` is negative.

    Example:
    >>> rise = Delayed(LinearWarmup(target=1.0, steps=10), start=100)
    >>> [float(rise(step)) for step in (50, 105, 200)]
    [0.0, 0.5, 1.0]
    """

    def __init__(self, schedule: Any, start: int) -> None:
        super().__init__()
        if not start >= 0:
            raise InputError(
                f"`start` must be 0 or more. Received: start={start}. Use 0 to start at once."
            )
        self.schedule, self.start = as_value(schedule), int(start)

    def __call__(self, step: Any) -> Any:
        """Returns the value at a step, a float32 scalar."""
        step = ops.maximum(ops.convert_to_tensor(step) - self.start, 0)
        return ops.cast(value_at(self.schedule, step), "float32")

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"schedule": serialized(self.schedule), "start": self.start}


@keras.saving.register_keras_serializable(package="kdkeras")
class Rewarmed(Schedule):
    """Continues a schedule after the model was changed (growth), with a new warmup.

    The optimizer counts steps from 0 again; the schedule continues at the step
    where the training of the small model ended.

    Formula:

    ```
    value(step) = schedule(start + step) * (fraction + (1 - fraction) * min(step / steps, 1))
    ```

    Args:
        schedule: A float or a schedule of the whole training.
        start: Number of updates before the change, at least 0.
        steps: Number of warmup updates, at least 1.
        fraction: Factor of the schedule's value at the first step, from 0 to
            1. Defaults to 0.0.

    Raises:
        InputError: If an argument is out of its range.

    Example:
    >>> rate = Rewarmed(LinearWarmup(target=1.0, steps=10), start=100, steps=4)
    >>> [float(rate(step)) for step in (0, 1, 4, 9)]
    [0.0, 0.25, 1.0, 1.0]
    """

    def __init__(self, schedule: Any, start: int, steps: int, fraction: float = 0.0) -> None:
        super().__init__()
        if not start >= 0 or not 0 <= fraction <= 1:
            raise InputError(
                "`start` must be 0 or more and `fraction` from 0 to 1. Received: "
                f"start={start}, fraction={fraction}. Use the small run's steps, and 0.0."
            )
        self.schedule, self.start = as_value(schedule), int(start)
        self.steps, self.fraction = _positive_steps("steps", steps), float(fraction)

    def __call__(self, step: Any) -> Any:
        """Returns the value at a step, a float32 scalar."""
        step = ops.convert_to_tensor(step)
        done = ops.minimum(ops.cast(step, "float32") / self.steps, 1.0)
        value = ops.cast(value_at(self.schedule, step + self.start), "float32")
        return value * (self.fraction + (1.0 - self.fraction) * done)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "schedule": serialized(self.schedule),
            "start": self.start,
            "steps": self.steps,
            "fraction": self.fraction,
        }


@keras.saving.register_keras_serializable(package="kdkeras")
class Piecewise(Schedule):
    """Switches between values or schedules at given steps.

    From step `boundaries[i]` on, the value is that of `values[i + 1]`. All
    schedules receive the step of the whole training; wrap one in `Delayed` to
    start it at its boundary. (Keras' `PiecewiseConstantDecay` takes only
    floats, and switches one step later.)

    Args:
        boundaries: Steps of the switches, increasing.
        values: Floats or schedules, one more than there are boundaries.

    Raises:
        InputError: If the number of values is wrong, or the boundaries do not
            increase.

    Example:
    >>> rate = Piecewise([10], [0.5, 0.25])
    >>> [float(rate(step)) for step in (9, 10)]
    [0.5, 0.25]
    """

    def __init__(self, boundaries: Sequence[int], values: Sequence[Any]) -> None:
        super().__init__()
        self.boundaries = [int(boundary) for boundary in boundaries]
        self.values = [as_value(value) for value in values]
        rising = sorted(set(self.boundaries)) == self.boundaries
        if len(self.values) != len(self.boundaries) + 1 or not rising:
            raise InputError(
                "`boundaries` must increase, and `values` must have one value more. Received: "
                f"boundaries={self.boundaries} and {len(self.values)} values. "
                "Use e.g. Piecewise([1000], [1.0, 0.5])."
            )

    def __call__(self, step: Any) -> Any:
        """Returns the value at a step, a float32 scalar."""
        step = ops.convert_to_tensor(step)
        value = ops.cast(value_at(self.values[0], step), "float32")
        for boundary, piece in zip(self.boundaries, self.values[1:], strict=True):
            value = ops.where(step >= boundary, ops.cast(value_at(piece, step), "float32"), value)
        return value

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            "boundaries": self.boundaries,
            "values": [serialized(value) for value in self.values],
        }


def is_schedule(value: Any) -> bool:
    """Whether the value is a schedule of the step."""
    return isinstance(value, Schedule)


def value_at(value: Any, step: Any) -> Any:
    """Returns the value of a float or a schedule at a step.

    Args:
        value: A float, returned unchanged, or a schedule.
        step: Number of completed updates, an int scalar; None if unknown.

    Returns:
        A float, or a float32 scalar.

    Raises:
        InputError: For a schedule without a step.
    """
    if not is_schedule(value):
        return value
    if step is None:
        raise InputError(
            f"A schedule needs the training step. Received: {type(value).__name__} and no step. "
            "Train with a Distiller, or pass step=."
        )
    return ops.cast(value(step), "float32")


def as_value(value: Any) -> Any:
    """Returns a float or a schedule, also from the output of `serialized`.

    Raises:
        InputError: If it is neither.
    """
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    if not is_schedule(value) and not is_number(value):
        raise InputError(
            f"A value must be a number or a schedule of the step. Received: {value!r}. "
            "Use 1.0 if in doubt."
        )
    return value if is_schedule(value) else float(value)


def is_number(value: Any) -> bool:
    """Whether the value is a real number, of Python or NumPy."""
    return isinstance(value, numbers.Real)


def serialized(value: Any) -> Any:
    """Returns a float, or the configuration of a schedule, for `get_config`."""
    return keras.saving.serialize_keras_object(value) if is_schedule(value) else value


def sampled(schedule: Any) -> Iterator[tuple[int, float]]:
    """Yields the steps that may be turning points of a schedule, and its values there.

    These are the steps in its configuration and, for schedules of users, the
    powers of two up to a million. They include the extremes of every schedule
    of Keras and of this module.
    """
    named = sorted({int(n) for n in _numbers(serialized(schedule)) if 1 <= n < _MANY})
    turns = sorted({0, *named, *(n + 1 for n in named), sum(named)})
    powers = [2**k for k in range(_MANY.bit_length() - 1)]
    for step in [*turns, *(n for n in powers if n not in turns)]:
        yield step, float(schedule(step))


def _numbers(config: Any) -> Iterator[float]:
    values = config.values() if isinstance(config, dict) else config
    for value in values:
        if isinstance(value, (dict, list, tuple)):
            yield from _numbers(value)
        elif is_number(value) and not isinstance(value, bool):
            yield value


def _positive_steps(name: str, steps: int) -> int:
    if int(steps) != steps or steps < 1:
        raise InputError(
            f"`{name}` must be an integer of at least 1. Received: {name}={steps}. "
            "Count updates, not epochs."
        )
    return int(steps)
