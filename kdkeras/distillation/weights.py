"""The names of a Distiller's terms, and what each weighs."""

from __future__ import annotations

from collections.abc import Mapping

from kdkeras.errors import InputError

__all__ = ["REGULARIZATION", "TASK", "checked_weights"]

TASK, REGULARIZATION = "task", "regularization"


def checked_weights(names: list[str], weights: Mapping[str, float]) -> dict[str, float]:
    """Returns the weight of every loss and of the task loss, 1.0 where none is given.

    Raises:
        InputError: For a name used twice or reserved, an unknown name, or a
            negative weight.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    taken = sorted({"loss", TASK, REGULARIZATION} & set(names))
    if twice or taken:
        raise InputError(
            f"Every loss needs a name of its own. Received: {(twice or taken)[0]!r} "
            f"{'twice' if twice else 'which is reserved'}. Choose another name."
        )
    for name, weight in weights.items():
        if name not in [*names, TASK]:
            raise InputError(
                f"`loss_weights` must name a loss. Received: {name!r}. "
                f"The losses are {[*names, TASK]}."
            )
        if not weight >= 0:
            raise InputError(
                f"A loss weight must be 0 or more. Received: {name}={weight}. "
                "Use 0 to only log a loss."
            )
    return {name: float(weights.get(name, 1.0)) for name in [*names, TASK]}
