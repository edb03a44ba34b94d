"""The names of a Distiller's terms, and what each weighs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from kdkeras.errors import InputError
from kdkeras.schedules import as_value, is_schedule, sampled, value_at

__all__ = [
    "REGULARIZATION",
    "TASK",
    "WEIGHT_LOG",
    "all_weights",
    "given_weights",
    "refuse_unfit_names",
    "weights_at",
]

TASK, REGULARIZATION = "task", "regularization"
WEIGHT_LOG = "weight_"
"""Under this and a loss's name, a weight that changes is logged."""


def refuse_unfit_names(names: list[str]) -> None:
    """Refuses names of losses that another loss or log has.

    Raises:
        InputError: For a name used twice, or reserved.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    reserved = {"loss", TASK, REGULARIZATION}
    taken = sorted(name for name in names if name in reserved or name.startswith(WEIGHT_LOG))
    if twice or taken:
        raise InputError(
            f"Every loss needs a name of its own. Received: {(twice or taken)[0]!r} "
            f"{'twice' if twice else 'which is reserved'}. Choose another name."
        )


def given_weights(names: list[str], weights: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the weights that are given, each a float or a schedule.

    Args:
        names: Names that may have one.
        weights: Floats, schedules, or what a configuration has of these.

    Raises:
        InputError: For an unknown name, or a weight that is or becomes
            negative.
    """
    found = {}
    for name, weight in weights.items():
        if name not in names:
            raise InputError(
                f"`loss_weights` must name a loss. Received: {name!r}. The losses are {names}."
            )
        found[name] = as_value(weight)
        points = sampled(found[name]) if is_schedule(found[name]) else [(None, found[name])]
        for step, value in points:
            if not 0 <= value < math.inf:
                when = "" if step is None else f" at step {step}"
                raise InputError(
                    f"A loss weight must be 0 or more, and finite. Received: {name}={value:g}"
                    f"{when}. Use 0 to only log a loss."
                )
    return found


def all_weights(names: list[str], weights: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the weight of every loss and of the task loss, 1.0 where none is given.

    Raises:
        InputError: As `refuse_unfit_names` and `given_weights`.
    """
    refuse_unfit_names(names)
    given = given_weights([*names, TASK], weights)
    return {name: given.get(name, 1.0) for name in [*names, TASK]}


def weights_at(weights: Mapping[str, Any], step: Any) -> dict[str, Any]:
    """Returns every weight at a step: a float, or a scalar where it changes."""
    return {name: value_at(weight, step) for name, weight in weights.items()}
