"""Students by size."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kdkeras.errors import InputError
from kdkeras.students.static import StaticStudent
from kdkeras.students.student import Student
from kdkeras.students.transformer import TransformerStudent

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary

__all__ = ["PRESETS", "from_preset"]

PRESETS: dict[str, tuple[Callable[..., Student], dict[str, Any]]] = {
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
"""Class and arguments of each preset."""


def from_preset(
    name: str,
    /,
    *,
    vocabulary: Vocabulary,
    output_dim: int,
    normalize: bool = True,
    **arguments: Any,
) -> Student:
    """Creates an untrained student of a named size.

    Args:
        name: `"static_128"`, `"static_256"`, `"tiny"`, `"mini"` or `"small"`.
        vocabulary: Vocabulary of the student; its size sets the table's rows.
        output_dim: Width of the embedding, the teacher's.
        normalize: Whether embeddings have length 1: what the teacher does.
        **arguments: Override the preset's own; `name` names the model.

    Returns:
        A built student.

    Raises:
        InputError: If the name is unknown.
    """
    if name not in PRESETS:
        raise InputError(
            f"`name` must be one of {sorted(PRESETS)}. Received: name={name!r}. "
            "Use 'static_256' if in doubt."
        )
    student_class, preset = PRESETS[name]
    return student_class(
        vocabulary.size,
        output_dim,
        vocabulary=vocabulary,
        normalize=normalize,
        **{"name": name, **preset, **arguments},
    )
