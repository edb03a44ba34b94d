"""The interface of encoders, and encoding with checks."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from kdkeras.errors import InputError

__all__ = ["Encoder", "TruncatedEncoder", "check_finite", "encode_all"]


class Encoder(Protocol):
    """Any object that embeds strings, e.g. a student, a teacher or an artifact."""

    def encode(self, texts: list[str]) -> np.ndarray:
        """Returns the `(len(texts), d)` embeddings of the texts."""


class TruncatedEncoder:
    """Returns the first components of another encoder's embeddings.

    Use it to evaluate a smaller width of a student that was trained with
    `Matryoshka`. The embeddings are not normalized again: all evaluators
    compare by cosine.

    Args:
        encoder: A student, a teacher or an artifact.
        dim: Number of components to keep, at least 1.

    Raises:
        InputError: If `dim` is below 1 or, while encoding, above the width of
            the embeddings.

    Example:
        >>> evaluate_all(evaluators, TruncatedEncoder(student, 64))  # doctest: +SKIP
    """

    def __init__(self, encoder: Encoder, dim: int) -> None:
        if dim < 1:
            raise InputError(
                f"`dim` must be at least 1. Received: dim={dim}. Use a width of the training."
            )
        self.encoder, self.dim = encoder, int(dim)

    def encode(self, texts: list[str]) -> np.ndarray:
        """Returns the `(len(texts), dim)` truncated embeddings of the texts."""
        embeddings = np.asarray(self.encoder.encode(texts))
        if embeddings.shape[-1] < self.dim:
            raise InputError(
                f"`dim` must not exceed the width of the embeddings, {embeddings.shape[-1]}. "
                f"Received: dim={self.dim}. Use a width of the training."
            )
        return embeddings[:, : self.dim]


def encode_all(name: str, encoder: Encoder, *sides: list[str]) -> list[np.ndarray]:
    """Embeds several lists of sentences.

    Args:
        name: Name of the evaluator, for the messages.
        encoder: The encoder.
        *sides: The lists of sentences.

    Returns:
        The `(n, d)` embeddings of each list.

    Raises:
        InputError: If the encoder returns another shape, NaN or infinity.
    """
    results = [np.asarray(encoder.encode(side)) for side in sides]
    for side, embeddings in zip(sides, results, strict=True):
        if embeddings.ndim != 2 or len(embeddings) != len(side):
            raise InputError(
                f"Evaluator {name}: an encoder must return one vector per sentence. "
                f"Received: shape {embeddings.shape} for {len(side)} sentences. "
                "Correct its `encode`."
            )
        check_finite(name, embeddings)
    return results


def check_finite(name: str, embeddings: np.ndarray) -> None:
    """Rejects embeddings with NaN or infinity.

    Args:
        name: Name of the evaluator, for the message.
        embeddings: `(n, d)`.

    Raises:
        InputError: If a value is not finite; the message states the sentence.
    """
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise InputError(
            f"Evaluator {name}: embeddings must be finite. Received: {len(bad)} of "
            f"{len(embeddings)} with NaN or infinity, the first at sentence {bad[0]}. "
            "Check the losses of the training."
        )
