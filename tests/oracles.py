"""The formulas once more, in float64 NumPy, from the papers alone.

Nothing here imports kdkeras, Keras or TensorFlow.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


def unit(x: np.ndarray) -> np.ndarray:
    """Rows of length 1."""
    x = np.asarray(x, np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = np.asarray(z, np.float64)
    z = z - z.max(axis=-1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=-1, keepdims=True))


def divergence(teacher_logits: np.ndarray, student_logits: np.ndarray) -> np.ndarray:
    """Kullback–Leibler divergence of the student's softmax from the teacher's."""
    log_p, log_q = log_softmax(teacher_logits), log_softmax(student_logits)
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def embedding_cosine(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    return 1.0 - (unit(teacher) * unit(student)).sum(axis=-1)


def embedding_mse(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    difference = np.asarray(teacher, np.float64) - np.asarray(student, np.float64)
    return (difference**2).mean(axis=-1)


def similarity(
    teacher: np.ndarray,
    student: np.ndarray,
    temperature: float = 0.05,
    exclude_self: bool = False,
) -> np.ndarray:
    """Row by row, with the own column taken out of the matrix, not masked."""
    teacher, student = unit(teacher), unit(student)
    losses = []
    for row in range(len(teacher)):
        keys = np.delete(teacher, row, axis=0) if exclude_self else teacher
        expected, actual = keys @ teacher[row], keys @ student[row]
        losses.append(divergence(expected / temperature, actual / temperature))
    return np.array(losses)


def soft_targets(teacher: np.ndarray, student: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """`(B, V)`, or `(B, T, V)` averaged over T."""
    teacher, student = np.asarray(teacher, np.float64), np.asarray(student, np.float64)
    values = temperature**2 * divergence(teacher / temperature, student / temperature)
    return values if values.ndim == 1 else values.mean(axis=1)


def translation_ranking(
    source: np.ndarray,
    translation: np.ndarray,
    margin: float = 0.3,
    scale: float = 20.0,
    source_id: np.ndarray | None = None,
    teacher: np.ndarray | None = None,
    guide_margin: float | None = None,
) -> np.ndarray:
    """Pair by pair, with explicit lists of negatives."""
    cosines = unit(source) @ unit(translation).T
    guide = None if guide_margin is None else unit(teacher) @ unit(teacher).T
    losses = []
    for i in range(len(cosines)):
        negatives = [
            j
            for j in range(len(cosines))
            if j != i
            and not (source_id is not None and source_id[i] == source_id[j])
            and not (guide is not None and guide[i, j] > 1 - guide_margin)
        ]
        own = scale * (cosines[i, i] - margin)
        directions = [
            [own, *(scale * cosines[i, j] for j in negatives)],
            [own, *(scale * cosines[j, i] for j in negatives)],
        ]
        losses.append(-np.mean([log_softmax(np.array(scores))[0] for scores in directions]))
    return np.array(losses)


def static_student(
    weights: list[np.ndarray], token_ids: np.ndarray, padding_mask: np.ndarray
) -> np.ndarray:
    """Unit-norm static student; weights: table, token weights, kernel, bias."""
    table, token_weight, kernel, bias = weights
    rows = []
    for ids, mask in zip(token_ids, padding_mask, strict=True):
        real = [token for token, is_real in zip(ids, mask, strict=True) if is_real]
        total = sum(np.exp(token_weight[token, 0]) * table[token] for token in real)
        rows.append(total / len(real) @ kernel + bias)
    return unit(np.array(rows))


def gradient(
    function: Callable[[list[np.ndarray]], float], weights: list[np.ndarray], step: float = 1e-5
) -> list[np.ndarray]:
    """Central differences, one number after the other."""
    weights = [np.array(weight, np.float64) for weight in weights]
    found = [np.zeros_like(weight) for weight in weights]
    for weight, slope in zip(weights, found, strict=True):
        for place in np.ndindex(weight.shape):
            value = weight[place]
            weight[place] = value + step
            above = function(weights)
            weight[place] = value - step
            slope[place] = (above - function(weights)) / (2 * step)
            weight[place] = value
    return found


def adam(
    weight: np.ndarray,
    slope: np.ndarray,
    moments: tuple[np.ndarray, np.ndarray],
    step: int,
    learning_rate: float,
    epsilon: float = 1e-7,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
) -> tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]:
    """One step of Kingma, Ba (2014), with the reordering of section 2."""
    first = beta_1 * moments[0] + (1 - beta_1) * slope
    second = beta_2 * moments[1] + (1 - beta_2) * slope**2
    rate = learning_rate * np.sqrt(1 - beta_2**step) / (1 - beta_1**step)
    return weight - rate * first / (np.sqrt(second) + epsilon), (first, second)
