"""Reference implementations of losses on logits, in float64 NumPy, one example at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import oracles


def softmax(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    return np.exp(oracles.log_softmax(np.asarray(logits, np.float64) / temperature))


def of_tokens(
    oracle: Callable[..., np.ndarray],
    teacher: np.ndarray,
    student: np.ndarray,
    padding_mask: np.ndarray,
    **arguments: Any,
) -> np.ndarray:
    """Mean of an oracle over the real tokens of each example; 0 without any."""
    losses = []
    for t, s, mask in zip(teacher, student, padding_mask, strict=True):
        real = np.flatnonzero(mask)
        losses.append(oracle(t[real], s[real], **arguments).mean() if len(real) else 0.0)
    return np.array(losses)


def logit_mse(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    return ((np.asarray(teacher, np.float64) - np.asarray(student, np.float64)) ** 2).mean(axis=-1)


def standardized_mse(teacher: np.ndarray, student: np.ndarray) -> np.ndarray:
    return logit_mse(oracles.standardized(teacher), oracles.standardized(student))


def top_k(teacher: np.ndarray, student: np.ndarray, k: int, temperature: float = 1.0) -> np.ndarray:
    """Merges the logits of all but the teacher's top k classes; ties keep the first."""
    losses = []
    for t, s in zip(np.asarray(teacher, np.float64), np.asarray(student, np.float64), strict=True):
        order = np.argsort(-t, kind="stable")

        def merged(z: np.ndarray, order: np.ndarray = order) -> np.ndarray:
            top, rest = z[order[:k]] / temperature, z[order[k:]] / temperature
            return np.append(top, np.logaddexp.reduce(rest)) if len(rest) else top

        losses.append(temperature**2 * oracles.divergence(merged(t), merged(s)))
    return np.array(losses)


def decoupled_parts(
    teacher: np.ndarray, student: np.ndarray, label: np.ndarray, temperature: float = 1.0
) -> np.ndarray:
    """Divergences of (label, any other) and among the others, `(2, B)`."""
    found = []
    for t, s, own in zip(teacher, student, label, strict=True):
        t, s = np.asarray(t, np.float64) / temperature, np.asarray(s, np.float64) / temperature
        others = [v for v in range(len(t)) if v != own]
        two = [np.array([z[own], np.logaddexp.reduce(z[others])]) for z in (t, s)]
        found.append([oracles.divergence(*two), oracles.divergence(t[others], s[others])])
    return temperature**2 * np.array(found).T


def decoupled(
    teacher: np.ndarray,
    student: np.ndarray,
    label: np.ndarray,
    temperature: float = 1.0,
    label_weight: float = 1.0,
    other_weight: float = 1.0,
) -> np.ndarray:
    sure, others = decoupled_parts(teacher, student, label, temperature)
    return label_weight * sure + other_weight * others
