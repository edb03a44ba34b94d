"""Teachers: trained encoders whose embeddings a student learns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdkeras.teachers.loading import load

if TYPE_CHECKING:
    from kdkeras.teachers.teacher import Teacher

__all__ = ["Teacher", "load"]


def __getattr__(name: str) -> Any:
    # TensorFlow is imported only when it is needed, so that bad folders fail fast.
    if name == "Teacher":
        from kdkeras.teachers.teacher import Teacher

        return Teacher
    raise AttributeError(f"module 'kdkeras.teachers' has no attribute {name!r}")
