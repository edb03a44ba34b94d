"""A student of other sizes, from the weights of one that exists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kdkeras.errors import InputError
from kdkeras.students import Student

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary

__all__ = ["resized", "vocabulary_of"]


def resized(
    student: Student,
    *,
    vocabulary: Vocabulary | None = None,
    own: Sequence[str] = (),
    **changes: Any,
) -> Student:
    """Makes a student with some arguments changed, and copies what still fits.

    Args:
        student: The student; it stays as it is.
        vocabulary: Another vocabulary; None for the student's.
        own: Names of layers that the caller sets.
        **changes: Constructor arguments that differ.
    """
    copy = type(student)(
        **{**student.get_config(), **changes}, vocabulary=vocabulary or student.vocabulary
    )
    theirs = {layer.name: layer for layer in copy.layers}
    for layer in student.layers:
        if layer.name not in own and layer.weights:
            theirs[layer.name].set_weights(layer.get_weights())
    return copy


def vocabulary_of(student: Student) -> Vocabulary:
    """Returns the student's vocabulary.

    Raises:
        InputError: If it has none.
    """
    if student.vocabulary is None:
        raise InputError(
            "Tokens are counted in the student's vocabulary. Received: a student without one. "
            "Create it with vocabulary=...."
        )
    return student.vocabulary
