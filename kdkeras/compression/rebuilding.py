"""A student with other sizes that keeps the weights that still fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdkeras.students import Student

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary

__all__ = ["resized"]


def resized(
    student: Student,
    *,
    vocabulary: Vocabulary | None = None,
    own: Sequence[str] = (),
    **changes: Any,
) -> Student:
    """Clones a student with other sizes, and copies the weights of unchanged layers.

    Args:
        student: The student. It is not modified.
        vocabulary: Another vocabulary. None for the student's.
        own: Names of layers whose weights are not copied; the caller sets them.
        **changes: Constructor arguments that differ.
    """
    copy = student.clone(vocabulary=vocabulary, copy_weights=False, **changes)
    theirs = {layer.name: layer for layer in copy.layers}
    for layer in student.layers:
        if layer.name not in own and layer.weights:
            theirs[layer.name].set_weights(layer.get_weights())
    return copy
