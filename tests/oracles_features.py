"""Reference implementations of losses on layers, in float64 NumPy, one sentence at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import oracles


def hidden_states(
    teacher: Sequence[np.ndarray],
    student: Sequence[np.ndarray],
    padding_mask: np.ndarray,
    pairs: Sequence[tuple[int, int]],
    kernel: np.ndarray | None = None,
) -> np.ndarray:
    """TinyBERT, equation 8, with padding deleted. Pairs are (student layer, teacher layer)."""
    losses = []
    for row, mask in enumerate(padding_mask):
        found = []
        for ours, theirs in pairs:
            for token in np.flatnonzero(mask):
                state = np.asarray(student[ours][row, token], np.float64)
                state = state if kernel is None else state @ np.asarray(kernel, np.float64)
                found.append(np.mean((state - np.asarray(teacher[theirs][row, token])) ** 2))
        losses.append(np.mean(found) if found else 0.0)
    return np.array(losses)


def attention_relations(
    teacher: Sequence[dict[str, np.ndarray]],
    student: Sequence[dict[str, np.ndarray]],
    padding_mask: np.ndarray,
    num_relation_heads: int,
    student_layer: int = -1,
    teacher_layer: int = -1,
) -> np.ndarray:
    """MiniLMv2, equations 4 to 6, with padding deleted. Layers are list indices."""
    losses = []
    for row, mask in enumerate(padding_mask):
        real = np.flatnonzero(mask)
        total = 0.0
        for part in ("query", "key", "value") if len(real) else ():
            divergences = []
            for head in range(num_relation_heads):
                theirs = _head(teacher[teacher_layer][part][row, real], head, num_relation_heads)
                ours = _head(student[student_layer][part][row, real], head, num_relation_heads)
                divergences.extend(oracles.divergence(theirs, ours))
            total += float(np.mean(divergences))
        losses.append(total)
    return np.array(losses)


def _head(vectors: np.ndarray, head: int, heads: int) -> np.ndarray:
    """Scores of all pairs of tokens in one relation head."""
    width = vectors.shape[1] // heads
    part = np.asarray(vectors, np.float64)[:, head * width : (head + 1) * width]
    return part @ part.T / np.sqrt(width)


def per_layer(
    teacher: np.ndarray,
    student: Sequence[np.ndarray],
    inner: Callable[..., np.ndarray],
    layers: Sequence[int],
) -> np.ndarray:
    return np.mean([inner(teacher, student[layer]) for layer in layers], axis=0)
