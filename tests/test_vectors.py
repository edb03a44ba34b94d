"""Cosines and unit vectors."""

from __future__ import annotations

import numpy as np

from kdkeras.vectors import cosine_by_row, unit_rows


def test_cosine_is_that_of_the_row_and_zero_for_a_zero_vector():
    left = np.array([[3.0, 4.0], [2.0, 0.0], [0.0, 0.0]])
    right = np.array([[30.0, 40.0], [1.0, -np.sqrt(3.0)], [1.0, 2.0]])
    np.testing.assert_allclose(cosine_by_row(left, right), [1.0, 0.5, 0.0])


def test_unit_rows_keep_zero_rows_and_the_dtype():
    rows = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]], np.float32))
    np.testing.assert_allclose(rows, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-6)
    assert rows.dtype == np.float32
