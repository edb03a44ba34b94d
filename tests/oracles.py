"""Reference implementations of the formulas in float64 NumPy, written from the papers.

They do not import kdkeras, Keras or TensorFlow.
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
    """Kullback–Leibler divergence from the teacher's softmax to the student's."""
    log_p, log_q = log_softmax(teacher_logits), log_softmax(student_logits)
    return (np.exp(log_p) * (log_p - log_q)).sum(axis=-1)


def embedding_cosine(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    return 1.0 - (unit(teacher) * unit(student)).sum(axis=-1)


def embedding_mse(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    difference = np.asarray(teacher, np.float64) - np.asarray(student, np.float64)
    return (difference**2).mean(axis=-1)


def embedding_l2(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    difference = np.asarray(teacher, np.float64) - np.asarray(student, np.float64)
    return np.sqrt((difference**2).sum(axis=-1))


def similarity(
    teacher: np.ndarray,
    student: np.ndarray,
    temperature: float = 0.05,
    exclude_self: bool = False,
) -> np.ndarray:
    """Row by row, with the own column deleted instead of masked."""
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


def standardized(logits: np.ndarray) -> np.ndarray:
    logits = np.asarray(logits, np.float64)
    mean, spread = logits.mean(axis=-1, keepdims=True), logits.std(axis=-1, keepdims=True)
    return (logits - mean) / np.where(spread > 0, spread, 1.0)


def standardized_targets(
    teacher: np.ndarray, student: np.ndarray, temperature: float = 1.0
) -> np.ndarray:
    return soft_targets(standardized(teacher), standardized(student), temperature)


def correlation(
    teacher: np.ndarray,
    student: np.ndarray,
    temperature: float = 1.0,
    row_weight: float = 1.0,
    column_weight: float = 1.0,
) -> np.ndarray:
    """DIST, by np.corrcoef of each pair of vectors."""
    p, q = (
        np.exp(log_softmax(np.asarray(z, np.float64) / temperature)) for z in (teacher, student)
    )

    def pearson(a: np.ndarray, b: np.ndarray) -> float:
        return (
            0.0
            if min(((x - x.mean()) ** 2).sum() for x in (a, b)) < 1e-14
            else float(np.corrcoef(a, b)[0, 1])
        )

    rows = np.array([1 - pearson(p[i], q[i]) for i in range(len(p))])
    columns = np.mean([1 - pearson(p[:, v], q[:, v]) for v in range(p.shape[1])])
    return temperature**2 * (row_weight * rows + column_weight * columns)


def similarity_matrix(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    teacher, student = unit(teacher), unit(student)
    return ((student @ student.T - teacher @ teacher.T) ** 2).mean(axis=1)


def huber(x: np.ndarray) -> np.ndarray:
    return np.where(np.abs(x) <= 1, x**2 / 2, np.abs(x) - 0.5)


def relational_distance(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    """Over explicit pairs of different rows."""
    n = len(teacher)
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]

    def relative(rows: np.ndarray) -> dict[tuple[int, int], float]:
        rows = np.asarray(rows, np.float64)
        lengths = {(i, j): float(np.linalg.norm(rows[i] - rows[j])) for i, j in pairs}
        mean = np.mean(list(lengths.values()))
        return {pair: length / mean if mean else 0.0 for pair, length in lengths.items()}

    expected, actual = relative(teacher), relative(student)
    losses = {pair: float(huber(np.array(actual[pair] - expected[pair]))) for pair in pairs}
    return np.array([np.mean([losses[i, j] for j in range(n) if j != i]) for i in range(n)])


def relational_angle(
    teacher: np.ndarray, student: np.ndarray, max_neighbors: int = 64
) -> np.ndarray:
    """Over explicit triplets (end, vertex, end)."""
    n = len(teacher)

    def angle(rows: np.ndarray, i: int, j: int, k: int) -> float:
        a, b = (np.asarray(rows[end], np.float64) - rows[j] for end in (i, k))
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / lengths) if lengths else 0.0

    losses = []
    for j in range(n):
        ends = [i for i in range(min(n, max_neighbors)) if i != j]
        found = [
            huber(np.array(angle(student, i, j, k) - angle(teacher, i, j, k)))
            for i in ends
            for k in ends
            if i != k
        ]
        losses.append(np.mean(found) if found else 0.0)
    return np.array(losses)


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
    """Unit-norm embeddings of a static student; weights: table, token weights, kernel, bias."""
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
    """Gradient by central differences, one number at a time."""
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
