"""What evaluators compute, as functions of arrays (NumPy only)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdkeras.errors import InputError

__all__ = [
    "RetrievalAccuracy",
    "cosine_by_row",
    "retrieval_accuracy",
    "spearman",
    "teacher_match",
]

# Cosines of equal vectors differ by float32 rounding, which depends on where
# a matrix product places them. Below this difference two cosines are tied.
TIE = 1e-6


def spearman(x: np.ndarray, y: np.ndarray) -> float:
    """Computes Spearman's rank correlation; ties take their average rank.

    Args:
        x: `(n,)`, any real scale.
        y: `(n,)`, any real scale.

    Returns:
        A number in [-1, 1]: the Pearson correlation of the ranks.

    Raises:
        InputError: If the lengths differ, are below 2, a value is not finite,
            or one side is constant (its correlation is not defined).

    References:
        Kendall (1945), The treatment of ties in ranking problems.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 1 or x.shape != y.shape or len(x) < 2:
        raise InputError(
            "A rank correlation needs two equally long lists of at least 2 numbers. "
            f"Received: shapes {x.shape} and {y.shape}. Pass one score a pair."
        )
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError(
            "A rank correlation needs finite numbers. "
            f"Received: {np.sum(~np.isfinite(x)) + np.sum(~np.isfinite(y))} that are not. "
            "Remove them, or look for a broken encoder."
        )
    centred = [ranks - ranks.mean() for ranks in (_average_ranks(x), _average_ranks(y))]
    if not all(ranks.any() for ranks in centred):
        raise InputError(
            "A rank correlation needs values that differ. "
            f"Received: {len(x)} equal values. Check the scores, or the encoder."
        )
    norms = np.linalg.norm(centred[0]) * np.linalg.norm(centred[1])
    return float(np.clip(centred[0] @ centred[1] / norms, -1.0, 1.0))


def _average_ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


@dataclass(frozen=True)
class RetrievalAccuracy:
    """Shares of sentences whose translation is the nearest one, in [0, 1].

    Attributes:
        forward: Each query looks among the candidates.
        backward: Each candidate looks among the queries.
    """

    forward: float
    backward: float

    @property
    def mean(self) -> float:
        """Mean of both directions."""
        return (self.forward + self.backward) / 2


def retrieval_accuracy(
    queries: np.ndarray,
    candidates: np.ndarray,
    query_texts: Sequence[str] | None = None,
    candidate_texts: Sequence[str] | None = None,
    chunk_size: int = 512,
) -> RetrievalAccuracy:
    """Computes how often row i finds row i of the other side by cosine.

    Sentences that are equal as text are one sentence: finding any of its rows
    is right. If the right sentence is tied with k others at the highest
    cosine, it counts 1 / (k + 1), so that an encoder which maps everything to
    one point gets the score of guessing.

    Args:
        queries: `(n, d)` embeddings.
        candidates: `(n, d)` embeddings; row i translates row i of `queries`.
        query_texts: The queries' `n` sentences. If left out, all are taken as
            different.
        candidate_texts: The candidates' `n` sentences.
        chunk_size: Rows compared at once. Memory is `chunk_size * n`, linear
            in the number of sentences.

    Returns:
        Both directions.

    Raises:
        InputError: If sizes do not fit, or there is nothing to compare.
    """
    left, right = np.asarray(queries, np.float32), np.asarray(candidates, np.float32)
    if left.ndim != 2 or left.shape != right.shape or not len(left):
        raise InputError(
            "Retrieval needs two equally large sets of embeddings, at least one each. "
            f"Received: shapes {left.shape} and {right.shape}. Pass one row a sentence."
        )
    groups = [_text_groups(texts, len(left)) for texts in (query_texts, candidate_texts)]
    left, right = _unit(left), _unit(right)
    return RetrievalAccuracy(
        forward=_one_direction(left, right, groups[1], chunk_size),
        backward=_one_direction(right, left, groups[0], chunk_size),
    )


def _text_groups(texts: Sequence[str] | None, count: int) -> np.ndarray:
    """Numbers the sentences; equal ones get the same number."""
    if texts is None:
        return np.arange(count)
    if len(texts) != count:
        raise InputError(
            "Retrieval needs one text an embedding. "
            f"Received: {len(texts)} texts for {count} embeddings. Pass both in one order."
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
    """Sums the credit of some rows; `gold` holds the right group of each."""
    tied = scores >= scores.max(axis=1, keepdims=True) - TIE
    found = np.any(tied & (groups == gold[:, None]), axis=1)
    counts = tied.sum(axis=1)
    total = float(np.sum(found & (counts == 1)))
    for row in np.flatnonzero(found & (counts > 1)):
        total += 1 / len(np.unique(groups[tied[row]]))
    return total


def teacher_match(student: np.ndarray, teacher: np.ndarray) -> float:
    """Computes the mean cosine between a student's and its teacher's vectors.

    Args:
        student: `(n, d)`.
        teacher: `(n, d)`, row by row for the same sentences.

    Returns:
        A number in [-1, 1]; 1 means equal directions.

    Raises:
        InputError: If the shapes differ or are empty.
    """
    student, teacher = np.asarray(student, np.float64), np.asarray(teacher, np.float64)
    if student.ndim != 2 or student.shape != teacher.shape or not len(student):
        raise InputError(
            "The student's embeddings must have the teacher's shape. "
            f"Received: {student.shape} and {teacher.shape}. "
            "Use the teacher whose embeddings the student learnt."
        )
    return float(np.mean(cosine_by_row(student, teacher)))


def cosine_by_row(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Computes `(n,)` cosines of two `(n, d)` arrays; 0 at a zero vector."""
    return np.sum(_unit(np.asarray(left)) * _unit(np.asarray(right)), axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
