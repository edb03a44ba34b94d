"""A student whose embeddings are the first components of another student's."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdkeras.compression.rebuilding import resized
from kdkeras.errors import InputError
from kdkeras.students import Student
from kdkeras.students.projection import require_projection

__all__ = ["truncate"]


def truncate(student: Student, dim: int, rotation: np.ndarray | None = None) -> Student:
    """Truncates a student's embeddings to their first components.

    Columns of the projection are removed, so truncation adds no cost at inference. If the
    student normalizes its embeddings, the truncated embeddings are normalized as well.
    Without `rotation` the result gives the same embeddings as
    `student.encode(texts, dim=dim)`.

    Formula:

    ```
    new_kernel = kernel @ rotation[:, :dim];  new_bias = bias @ rotation[:, :dim]
    ```

    A student trained with `Matryoshka` is meant to be truncated. In any other student all
    components are equally informative on average, so rotate it first:
    `rotation=principal_axes(student.encode(texts))`. The embeddings are then comparable
    with `teacher @ rotation[:, :dim]`, not with the teacher's own embeddings.

    Args:
        student: The student. It is not modified.
        dim: Number of components to keep, from 1 to `output_dim`.
        rotation: Orthonormal matrix, `(output_dim, output_dim)`. None (the default) for
            no rotation.

    Returns:
        A new student.

    Raises:
        InputError: If `dim` is out of range, `rotation` is not an orthonormal matrix of
            the student's width, or the projection is stored as a product.

    References:
        Kusupati et al. (2022), arXiv:2205.13147.
    """
    width = student.output_dim
    if not 1 <= dim <= width:
        raise InputError(
            f"`dim` must be between 1 and {width}, the student's width. Received: dim={dim}. "
            "Use a width that the student was trained for."
        )
    columns = _checked_rotation(rotation, width)[:, :dim]
    changes: dict[str, Any] = {"output_dim": int(dim)}
    if student.projection is None:  # The embedding is the mean of the tokens.
        kernel, bias = np.eye(width), np.zeros(width)
        changes["project"] = True
    else:
        require_projection(student)
        kernel, bias = (w.astype(np.float64) for w in student.projection.get_weights())
    copy = resized(student, own=["projection"], **changes)
    copy.projection.set_weights([kernel @ columns, bias @ columns])
    return copy


def _checked_rotation(rotation: np.ndarray | None, width: int) -> np.ndarray:
    if rotation is None:
        return np.eye(width)
    axes = np.asarray(rotation, np.float64)
    # Written as `not ... < ...` so that NaN is refused.
    if axes.shape != (width, width) or not np.abs(axes.T @ axes - np.eye(width)).max() < 1e-3:
        raise InputError(
            f"`rotation` must be an orthonormal matrix of the student's width, {width}. Received: "
            f"an array of shape {axes.shape}. Use principal_axes(student.encode(texts))."
        )
    return axes
