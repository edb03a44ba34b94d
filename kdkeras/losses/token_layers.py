"""What losses on the layers of two encoders share: choosing layers, and equal tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdkeras.errors import InputError
from kdkeras.losses.base import may_match

__all__ = ["Layer", "evenly_spaced", "pick", "require_equal_tokens"]

Layer = int | str
"""A layer's number, negative from the last, or its name where layers have names."""


def pick(layers: Any, layer: Layer, side: str, name: str, first: int = 0) -> Any:
    """Returns one layer of a list or dict of them.

    Args:
        layers: What a model gave: a list, or a dict by the layers' names.
        layer: Number or name.
        side: Whose it is, `"student"` or `"teacher"`, for the error.
        name: The loss's name, for the error.
        first: Number of the list's first layer.

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
            f"{tuple(layers.shape)} from the {side} in `{name}`. Use a model that gives "
            "its layers, e.g. a TransformerStudent."
        )
    raise InputError(
        f"A layer must be one of the {side}'s. Received: {layer!r} in `{name}`. The {side} has "
        f"{valid}."
    )


def evenly_spaced(num_student: int, num_teacher: int) -> list[tuple[Layer, Layer]]:
    """Pairs the layers of two encoders, numbered from 1, and ends at the last of both.

    As many pairs as the shallower one has layers: `evenly_spaced(3, 6)` is
    `[(1, 2), (2, 4), (3, 6)]`.
    """
    if num_student <= num_teacher:
        return [(k, k * num_teacher // num_student) for k in range(1, num_student + 1)]
    return [(k * num_student // num_teacher, k) for k in range(1, num_teacher + 1)]


def require_equal_tokens(teacher: Any, student: Any, name: str) -> None:
    """Refuses `(B, L, …)` and `(B, L', …)`: sentences that were cut into other tokens.

    Raises:
        InputError: If neither length is unknown, and they differ.
    """
    for side, states in (("teacher", teacher), ("student", student)):
        if len(states.shape) != 3:
            raise InputError(
                "A layer must give one vector a token, (B, L, d). Received: "
                f"{tuple(states.shape)} from the {side} in `{name}`. Give the layers unpooled."
            )
    if not may_match(teacher.shape[1:2], student.shape[1:2]):
        raise InputError(
            "Teacher and student must read the same tokens. Received: teacher "
            f"{tuple(teacher.shape)}, student {tuple(student.shape)} in `{name}`. "
            "Use the teacher's vocabulary for the student, or a loss on embeddings."
        )
