"""Checks of losses on layers: the chosen layers exist, and both sides have equal tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdkeras.errors import InputError
from kdkeras.losses.checks import may_match

__all__ = ["Layer", "pick", "require_equal_tokens"]

Layer = int | str
"""Number of a layer, negative from the last, or its name where layers have names."""


def pick(layers: Any, layer: Layer, side: str, name: str, first: int = 0) -> Any:
    """Returns one of a list or dict of layers.

    Args:
        layers: Output of a model: a list, or a dict by name.
        layer: Number or name.
        side: `"student"` or `"teacher"`, for the error.
        name: Name of the loss, for the error.
        first: Number of the first layer in the list. Defaults to 0.

    Raises:
        InputError: If there is no such layer; the valid ones are listed.
    """
    if isinstance(layers, Mapping):
        valid: list[Layer] = list(layers)
        if layer in layers:
            return layers[layer]
    elif isinstance(layers, list | tuple):
        valid = list(range(first, first + len(layers)))
        if isinstance(layer, int):
            number = layer + first + len(layers) if layer < 0 else layer
            if number in valid:
                return layers[number - first]
    else:
        raise InputError(
            f"A loss on layers needs a list or a dict of them. Received: a tensor "
            f"{tuple(layers.shape)} from the {side} in `{name}`. Use a model that returns "
            "its layers, e.g. a TransformerStudent."
        )
    raise InputError(
        f"A layer must be one of the {side}'s. Received: {layer!r} in `{name}`. The {side} has "
        f"{valid}."
    )


def require_equal_tokens(teacher: Any, student: Any, name: str) -> None:
    """Refuses `(B, L, …)` and `(B, L', …)` with different numbers of tokens.

    Raises:
        InputError: If a side is not `(B, L, d)`, or both lengths are known and
            differ.
    """
    for side, states in (("teacher", teacher), ("student", student)):
        if len(states.shape) != 3:
            raise InputError(
                "A layer must have one vector per token, (B, L, d). Received: "
                f"{tuple(states.shape)} from the {side} in `{name}`. Return the layers before "
                "pooling."
            )
    if not may_match(teacher.shape[1:2], student.shape[1:2]):
        raise InputError(
            "Teacher and student must read the same tokens. Received: teacher "
            f"{tuple(teacher.shape)}, student {tuple(student.shape)} in `{name}`. "
            "Use the teacher's vocabulary for the student, or a loss on embeddings."
        )
