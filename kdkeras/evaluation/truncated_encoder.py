"""An encoder of which only the first components are looked at."""

from __future__ import annotations

import numpy as np

from kdkeras.errors import InputError
from kdkeras.evaluation.evaluators import Encoder

__all__ = ["TruncatedEncoder"]


class TruncatedEncoder:
    """Gives the first components of another encoder's embeddings.

    For any evaluator, to see what a width of a student trained with
    `Matryoshka` is worth. Lengths stay what they are: evaluators read cosines.

    Args:
        encoder: A student, a teacher, an artifact.
        dim: Components to keep, 1 or more.

    Raises:
        InputError: If `dim` is below 1 or, while encoding, above the width of
            the embeddings.

    Example:
        >>> evaluate_all(evaluators, TruncatedEncoder(student, 64))  # doctest: +SKIP
    """

    def __init__(self, encoder: Encoder, dim: int) -> None:
        if dim < 1:
            raise InputError(
                f"`dim` must be at least 1. Received: dim={dim}. Use a width that was trained."
            )
        self.encoder, self.dim = encoder, int(dim)

    def encode(self, texts: list[str]) -> np.ndarray:
        """Returns `(len(texts), dim)`."""
        embeddings = np.asarray(self.encoder.encode(texts))
        if embeddings.shape[-1] < self.dim:
            raise InputError(
                f"`dim` must not exceed the embeddings' width, {embeddings.shape[-1]}. "
                f"Received: dim={self.dim}. Use a width that was trained."
            )
        return embeddings[:, : self.dim]
