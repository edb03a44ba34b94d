"""A student whose embeddings are the first components of another's."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdkeras.compression.rebuilding import resized
from kdkeras.errors import InputError
from kdkeras.students import Student
from kdkeras.students.projection import require_projection

__all__ = ["truncate"]


def truncate(student: Student, dim: int, rotation: np.ndarray | None = None) -> Student:
    """Cuts a finished student's embeddings to their first components.

    Columns of the last Dense go, so that the cut costs nothing at run time; unit
    norm, where the student has it, follows the cut. Without `rotation` it gives what
    `student.encode(texts, dim=dim)` gives.

    Formula:

    ```
    new_kernel = kernel @ rotation[:, :dim];  new_bias = bias @ rotation[:, :dim]
    ```

    A student trained with `Matryoshka` is meant to be cut. Another one says as much
    in its last components as in its first, unless it is turned before:
    `rotation=principal_axes(student.encode(texts))`. The result is then comparable
    with a teacher's vectors `teacher @ rotation[:, :dim]`, not with the teacher's own.

    Args:
        student: The student; it stays as it is.
        dim: Components to keep, from 1 to `output_dim`.
        rotation: Orthonormal `(output_dim, output_dim)`; None (the default) for none.

    Returns:
        A student of its own.

    Raises:
        InputError: If `dim` is out of its range, the rotation does not fit, or the
            projection is a product of two kernels.

    References:
        Kusupati et al. (2022), arXiv:2205.13147.
    """
    width = student.output_dim
    if not 1 <= dim <= width:
        raise InputError(
            f"`dim` must be between 1 and {width}, the student's width. Received: dim={dim}. "
            "Use a width that was trained."
        )
    columns = _checked_rotation(rotation, width)[:, :dim]
    changes: dict[str, Any] = {"output_dim": int(dim)}
    if student.projection is None:  # The mean of the tokens was the embedding.
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
    # Not above: NaN is no rotation either.
    if axes.shape != (width, width) or not np.abs(axes.T @ axes - np.eye(width)).max() < 1e-3:
        raise InputError(
            f"`rotation` must be an orthonormal matrix of the student's width, {width}. Received: "
            f"an array of shape {axes.shape}. Use principal_axes(student.encode(texts))."
        )
    return axes
