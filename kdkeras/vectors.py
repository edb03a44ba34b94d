"""Cosines and unit vectors of NumPy arrays."""

from __future__ import annotations

import numpy as np

__all__ = ["cosine_by_row", "unit_rows"]


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Scales the rows of a `(n, d)` array to unit norm; zero rows are unchanged."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def cosine_by_row(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Computes the `(n,)` cosines between the rows of two `(n, d)` arrays.

    The cosine with a zero vector is 0.
    """
    return np.sum(unit_rows(np.asarray(left)) * unit_rows(np.asarray(right)), axis=1)
