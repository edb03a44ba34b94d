"""Untrained students of named sizes."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kdkeras.errors import InputError
from kdkeras.students.static import StaticStudent
from kdkeras.students.student import Student
from kdkeras.students.transformer import TransformerStudent

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary

__all__ = ["SIZES", "build_student"]

SIZES: dict[str, tuple[Callable[..., Student], dict[str, Any]]] = {
    "static_128": (StaticStudent, {"embedding_dim": 128}),
    "static_256": (StaticStudent, {"embedding_dim": 256}),
    "tiny": (
        TransformerStudent,
        {"num_layers": 2, "hidden_dim": 128, "num_heads": 2, "intermediate_dim": 512},
    ),
    "mini": (
        TransformerStudent,
        {"num_layers": 4, "hidden_dim": 256, "num_heads": 4, "intermediate_dim": 1024},
    ),
    "small": (
        TransformerStudent,
        {"num_layers": 6, "hidden_dim": 384, "num_heads": 12, "intermediate_dim": 1536},
    ),
}
"""Class and constructor arguments of each size."""


def build_student(
    name: str,
    /,
    *,
    vocabulary: Vocabulary,
    output_dim: int,
    normalize: bool = True,
    table_rank: int | None = None,
    **arguments: Any,
) -> Student:
    """Creates an untrained student of a named size.

    Args:
        name: `"static_128"`, `"static_256"`, `"tiny"`, `"mini"` or `"small"`.
        vocabulary: Vocabulary of the student. Its size is the number of rows of
            the token table.
        output_dim: Width of the embedding. Use the teacher's.
        normalize: Whether embeddings are scaled to length 1. Use the teacher's
            setting. Default True.
        table_rank: Number of columns of the stored token table, below the width of
            the size. For a static student this is its `embedding_dim`, because
            its table and projection are both linear. Default the full width.
        **arguments: Constructor arguments that override those of the size, e.g.
            `num_layers`; `name` is the name of the model.

    Returns:
        The student, with random weights.

    Raises:
        InputError: If the name is unknown, or `table_rank` is out of range.
    """
    if name not in SIZES:
        raise InputError(
            f"`name` must be one of {sorted(SIZES)}. Received: name={name!r}. "
            "Use 'static_256' if in doubt."
        )
    student_class, defaults = SIZES[name]
    if table_rank is not None:
        defaults = _with_table_rank(student_class, defaults, table_rank)
    return student_class(
        vocabulary.size,
        output_dim,
        vocabulary=vocabulary,
        normalize=normalize,
        **{"name": name, **defaults, **arguments},
    )


def _with_table_rank(
    student_class: Callable[..., Student], defaults: dict[str, Any], rank: int
) -> dict[str, Any]:
    if student_class is not StaticStudent:
        return {**defaults, "table_rank": rank}
    if not 1 <= rank < defaults["embedding_dim"]:
        raise InputError(
            f"`table_rank` must be from 1 to {defaults['embedding_dim'] - 1}, below the full "
            f"width. Received: table_rank={rank}. Omit it for a table of full width."
        )
    return {**defaults, "embedding_dim": rank}
