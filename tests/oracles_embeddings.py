"""Reference implementations of further losses on embeddings, in float64 NumPy."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from oracles import divergence, log_softmax, unit


def queue_similarity(
    teacher: np.ndarray,
    student: np.ndarray,
    queue: np.ndarray,
    temperature: float = 0.05,
    student_temperature: float | None = None,
) -> np.ndarray:
    """SEED; `queue` has the rows of the queue without empty slots."""
    teacher, student = unit(teacher), unit(student)
    keys = np.concatenate([teacher, unit(queue)]) if len(queue) else teacher
    other = temperature if student_temperature is None else student_temperature
    return divergence(teacher @ keys.T / temperature, student @ keys.T / other)


def queue_contrast(
    teacher: np.ndarray,
    student: np.ndarray,
    queue: np.ndarray,
    temperature: float = 0.07,
    guide_margin: float = 0.01,
) -> np.ndarray:
    """Row by row, with explicit lists of negatives."""
    teacher, student = unit(teacher), unit(student)
    keys = [*teacher, *unit(queue)] if len(queue) else [*teacher]
    losses = []
    for i, own in enumerate(teacher):
        negatives = [key for j, key in enumerate(keys) if j != i and own @ key <= 1 - guide_margin]
        scores = np.array([own, *negatives]) @ student[i] / temperature
        losses.append(-log_softmax(scores)[0])
    return np.array(losses)


def spread_out(
    source: np.ndarray, translation: np.ndarray, source_id: np.ndarray | None = None
) -> np.ndarray:
    """Over an explicit list of pairs that are not translations."""
    n, width = np.shape(source)
    cosines = unit(source) @ unit(translation).T
    ids = np.arange(n) if source_id is None else source_id
    found = np.array([cosines[i, j] for i in range(n) for j in range(n) if ids[i] != ids[j]])
    value = found.mean() ** 2 + max(0.0, (found**2).mean() - 1 / width)
    return np.full(n, value)


def vicreg(
    source: np.ndarray,
    translation: np.ndarray,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
    target_std: float = 1.0,
) -> np.ndarray:
    """VICReg, by np.cov."""
    source, translation = (np.asarray(side, np.float64) for side in (source, translation))
    values = invariance_weight * ((source - translation) ** 2).sum(axis=1)
    for side in (source, translation):
        matrix = np.cov(side.T)
        std = np.sqrt(np.diag(matrix) + 1e-4)
        off_diagonal = [v for place, v in np.ndenumerate(matrix) if place[0] != place[1]]
        values = values + variance_weight * np.maximum(0, target_std - std).mean()
        values = values + covariance_weight * np.square(off_diagonal).sum() / len(matrix)
    return values


def barlow_twins(
    source: np.ndarray, translation: np.ndarray, redundancy_weight: float = 0.005
) -> np.ndarray:
    """Barlow Twins, by np.corrcoef of each pair of columns."""
    source, translation = (np.asarray(side, np.float64) for side in (source, translation))

    def constant(column: np.ndarray) -> bool:
        return ((column - column.mean()) ** 2).sum() <= 1e-10 * (1 + (column**2).sum())

    value = 0.0
    for j, a in enumerate(source.T):
        for k, b in enumerate(translation.T):
            c = 0.0 if constant(a) or constant(b) else np.corrcoef(a, b)[0, 1]
            value += (1 - c) ** 2 if j == k else redundancy_weight * c**2
    return np.full(len(source), value)


def matryoshka(
    teacher: np.ndarray,
    student: np.ndarray,
    inner: Callable[..., np.ndarray],
    dims: Sequence[int],
    dim_weights: Sequence[float] | None = None,
    rotation: np.ndarray | None = None,
    **parts: np.ndarray,
) -> np.ndarray:
    """Weighted sum of another oracle over prefixes; for distillation and alignment losses."""
    teacher, student = np.asarray(teacher, np.float64), np.asarray(student, np.float64)
    if rotation is not None:
        teacher, student = (x @ np.asarray(rotation, np.float64) for x in (teacher, student))
    weights = dim_weights or [1.0] * len(dims)
    return sum(
        weight * inner(unit(teacher[..., :dim]), unit(student[..., :dim]), **parts)
        for dim, weight in zip(dims, weights, strict=True)
    )
