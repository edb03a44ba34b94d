"""The rotation that puts what a teacher says most into the first components."""

from __future__ import annotations

import numpy as np

from kdkeras.errors import InputError

__all__ = ["principal_axes"]


def principal_axes(vectors: np.ndarray) -> np.ndarray:
    """Finds the rotation after which the first components say the most.

    The axes are those of the second moments about the origin, not about the
    mean: a rotation keeps every cosine, and of all linear maps to `k`
    components the first `k` axes lose the least of the vectors.

    Args:
        vectors: `(n, d)` float, a teacher's vectors; a few times `d` of them.

    Returns:
        `(d, d)` float32 orthonormal; `vectors @ axes` has the largest squares
        first. The largest number of each axis is positive.

    Raises:
        InputError: If it is no matrix of finite numbers with a row.

    Example:
    >>> principal_axes(np.array([[0.0, 2.0], [1.0, 0.0]])).tolist()
    [[0.0, 1.0], [1.0, 0.0]]

    References:
        Eckart, Young (1936).
    """
    vectors = np.asarray(vectors, np.float64)
    if vectors.ndim != 2 or not len(vectors) or not np.isfinite(vectors).all():
        raise InputError(
            "Axes are those of finite vectors, one a row. Received: an array of shape "
            f"{vectors.shape}{'' if np.isfinite(vectors).all() else ' with NaN or infinity'}. "
            "Pass the teacher's vectors of some thousand sentences."
        )
    _, axes = np.linalg.eigh(vectors.T @ vectors)  # ascending
    axes = axes[:, ::-1]
    largest = axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])]
    return (axes * np.sign(largest)).astype(np.float32)
