"""Metrics of embeddings, as functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from kdkeras.errors import InputError
from kdkeras.vectors import cosine_by_row, unit_rows

__all__ = ["RetrievalAccuracy", "retrieval_accuracy", "spearman", "teacher_match"]

# Cosines of equal vectors differ by float32 rounding, which depends on their position in a
# matrix product. Cosines that differ by less than this are tied.
TIE = 1e-6


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Computes Spearman's rank correlation; tied values get their average rank.

    It is `scipy.stats.spearmanr`, but rejects input without a correlation
    instead of returning NaN.

    Args:
        x: `(n,)`, any real scale.
        y: `(n,)`, any real scale.

    Returns:
        The correlation, in [-1, 1].

    Raises:
        InputError: If the lengths differ or are below 2, a value is not
            finite, or all values of one side are equal.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise InputError(
            "A rank correlation needs two lists of equal length with at least 2 numbers. "
            f"Received: shapes {x.shape} and {y.shape}. Pass one score per pair."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError(
            "A rank correlation needs finite numbers. "
            f"Received: {np.sum(~np.isfinite(x)) + np.sum(~np.isfinite(y))} NaN or infinite. "
            "Remove them, or check the encoder."
        )
    if not (np.ptp(x) and np.ptp(y)):
        raise InputError(
            "A rank correlation needs values that differ. "
            f"Received: {len(x)} equal values. Check the scores, or the encoder."
        )
    return float(stats.spearmanr(x, y).statistic)


@dataclass(frozen=True)
class RetrievalAccuracy:
    """Fraction of sentences whose nearest neighbor is their translation, in [0, 1].

    Attributes:
        forward: For queries, among the candidates.
        backward: For candidates, among the queries.
    """

    forward: float
    backward: float

    @property
    def mean(self) -> float:
        """Mean of both directions, in [0, 1]."""
        return (self.forward + self.backward) / 2


def retrieval_accuracy(
    queries: np.ndarray,
    candidates: np.ndarray,
    query_texts: Sequence[str] | None = None,
    candidate_texts: Sequence[str] | None = None,
    chunk_size: int = 512,
) -> RetrievalAccuracy:
    """Computes how often row i is the nearest neighbor of row i of the other side.

    Rows are compared by cosine. Rows with equal texts count as the same
    sentence: each of them is a correct result. If the correct sentence is
    tied with k others at the highest cosine, it counts 1 / (k + 1), so that
    an encoder that maps all sentences to one point gets the score of random
    guessing.

    Args:
        queries: `(n, d)` embeddings.
        candidates: `(n, d)` embeddings; row i translates row i of `queries`.
        query_texts: The `n` sentences of the queries. If omitted, all are
            considered different.
        candidate_texts: The `n` sentences of the candidates; see
            `query_texts`.
        chunk_size: Number of rows compared at once, default 512. Memory is
            proportional to `chunk_size * n`.

    Returns:
        The accuracy of both directions.

    Raises:
        InputError: If the shapes or the numbers of texts differ, or there are
            no rows.
    """
    left, right = np.asarray(queries, np.float32), np.asarray(candidates, np.float32)
    if left.ndim != 2 or left.shape != right.shape or not len(left):
        raise InputError(
            "Retrieval needs two arrays of embeddings of equal shape with at least one row. "
            f"Received: shapes {left.shape} and {right.shape}. Pass one row per sentence."
        )
    groups = [_text_groups(texts, len(left)) for texts in (query_texts, candidate_texts)]
    left, right = unit_rows(left), unit_rows(right)
    return RetrievalAccuracy(
        forward=_one_direction(left, right, groups[1], chunk_size),
        backward=_one_direction(right, left, groups[0], chunk_size),
    )


def _text_groups(texts: Sequence[str] | None, count: int) -> np.ndarray:
    """Returns a number per sentence; equal sentences get the same number."""
    if texts is None:
        return np.arange(count)
    if len(texts) != count:
        raise InputError(
            "Retrieval needs one text per embedding. "
            f"Received: {len(texts)} texts for {count} embeddings. Pass aligned lists."
        )
    numbers: dict[str, int] = {}
    return np.array([numbers.setdefault(text, len(numbers)) for text in texts])


def _one_direction(
    queries: np.ndarray, candidates: np.ndarray, groups: np.ndarray, chunk_size: int
) -> float:
    total = 0.0
    for start in range(0, len(queries), chunk_size):
        scores = queries[start : start + chunk_size] @ candidates.T
        total += _credit(scores, groups[start : start + chunk_size], groups)
    return total / len(queries)


def _credit(scores: np.ndarray, gold: np.ndarray, groups: np.ndarray) -> float:
    """Returns the total credit of a chunk; `gold` is the correct group of each row."""
    tied = scores >= scores.max(axis=1, keepdims=True) - TIE
    found = np.any(tied & (groups == gold[:, None]), axis=1)
    counts = tied.sum(axis=1)
    total = float(np.sum(found & (counts == 1)))
    for row in np.flatnonzero(found & (counts > 1)):
        total += 1 / len(np.unique(groups[tied[row]]))
    return total


def teacher_match(student: np.ndarray, teacher: np.ndarray) -> float:
    """Computes the mean cosine between the embeddings of student and teacher.

    Args:
        student: `(n, d)` embeddings.
        teacher: `(n, d)` embeddings of the same sentences.

    Returns:
        The mean cosine, in [-1, 1]; 1 means equal directions.

    Raises:
        InputError: If the shapes differ or are empty.
    """
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    if student.ndim != 2 or student.shape != teacher.shape or not len(student):
        raise InputError(
            "The student's embeddings must have the teacher's shape. "
            f"Received: {student.shape} and {teacher.shape}. "
            "Use the teacher that the student was trained with."
        )
    return float(np.mean(cosine_by_row(student, teacher)))
