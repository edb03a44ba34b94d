"""Pieces that the formulas of several losses share."""

from __future__ import annotations

from typing import Any

from keras import ops

__all__ = ["MASKED", "cosine_matrix", "divergence", "real_token_mean", "standardized"]

MASKED = -1e30
"""Logit of a masked entry: far below every logit, attention score and scaled cosine, and still a
finite float32."""


def cosine_matrix(rows: Any, keys: Any) -> Any:
    """Returns the cosine of every row with every key.

    Args:
        rows: `(n, d)` float, of unit length.
        keys: `(m, d)` float, of unit length.

    Returns:
        `(n, m)` float.
    """
    return ops.matmul(rows, ops.transpose(keys))


def divergence(log_p: Any, log_q: Any) -> Any:
    """Returns the Kullback–Leibler divergence from `p` to `q`, in nats.

    Args:
        log_p: `(..., K)` float, log-probabilities of the teacher.
        log_q: `(..., K)` float, log-probabilities of the student.

    Returns:
        `(...)` float.
    """
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)


def real_token_mean(values: Any, padding_mask: Any) -> Any:
    """Averages `(B, L)` over the real tokens, to `(B,)`; 0 for an example without any."""
    mask = ops.cast(padding_mask, values.dtype)
    return ops.sum(values * mask, axis=-1) / ops.maximum(ops.sum(mask, axis=-1), 1.0)


def standardized(logits: Any) -> Any:
    """Scales logits to mean 0 and standard deviation 1 over the classes; equal logits become 0."""
    logits = logits - ops.mean(logits, axis=-1, keepdims=True)
    variance = ops.mean(ops.square(logits), axis=-1, keepdims=True)
    return logits * ops.rsqrt(ops.maximum(variance, 1e-12))
