"""Reference implementations of schedules and balancing, in float64, one step at a time."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from oracles import gradient

Terms = dict[str, float]


def warmup(step: int, target: float, steps: int, initial: float = 0.0) -> float:
    return target if step >= steps else initial + (target - initial) * step / steps


def decay_to_zero(step: int, initial: float, fraction: float, total: int) -> float:
    last = fraction * total
    return initial * (last - step) / last if step < last else 0.0


def polynomial(step: int, initial: float, steps: int, end: float) -> float:
    return initial + (end - initial) * min(step, steps) / steps


def cosine(step: int, initial: float, steps: int, alpha: float) -> float:
    done = min(step, steps) / steps
    return initial * ((1 - alpha) * (1 + math.cos(math.pi * done)) / 2 + alpha)


def magnitude_weights(
    seen: list[Terms], now: Terms, weights: Terms, momentum: float, epsilon: float = 1e-4
) -> Terms:
    """Factors of the terms after the given steps.

    The bias-corrected running mean as a sum: step `i` of `n` has the weight
    `momentum^(n - 1 - i)`.
    """
    found = {}
    for name, weight in weights.items():
        shares = [momentum ** (len(seen) - 1 - i) for i in range(len(seen))]
        size = (
            sum(share * abs(terms[name]) for share, terms in zip(shares, seen, strict=True))
            / sum(shares)
            if seen
            else abs(now[name])
        )
        found[name] = weight / max(size, epsilon)
    return found


def sgd(
    total: Callable[[list[np.ndarray]], float], weights: list[np.ndarray], rate: float
) -> list[np.ndarray]:
    """One step of gradient descent, by central differences."""
    slopes = gradient(total, weights)
    return [w - rate * slope for w, slope in zip(weights, slopes, strict=True)]
