"""A teacher that repeats what it once said."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from kdkeras.data.distillation_set import DistillationSet
from kdkeras.errors import InputError

__all__ = ["CachedTeacher"]


class CachedTeacher:
    """Answers with the embeddings that a distillation set holds.

    For cutting a new set out of an old one without running the teacher again.
    It carries the fingerprint of the teacher that spoke.

    Args:
        dataset: The set; its embeddings are held in memory.
    """

    def __init__(self, dataset: DistillationSet) -> None:
        self.name = dataset.teacher["name"]
        self.fingerprint = dataset.teacher["fingerprint"]
        self.embedding_dim = dataset.embedding_dim
        self.normalized = dataset.normalized
        self._vectors = {group.source: vector for group, vector in dataset.records()}

    def encode(
        self,
        texts: Sequence[str],
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
    ) -> np.ndarray:
        """Looks the sentences up.

        Args:
            texts: Source sentences of the set.
            batch_size: Sentences between two calls of `progress`.
            progress: Called as `progress(done, total)`.

        Returns:
            `(len(texts), embedding_dim)` float32.

        Raises:
            InputError: If the set does not hold a sentence.
        """
        vectors = np.zeros((len(texts), self.embedding_dim), np.float32)
        for row, text in enumerate(texts):
            if text not in self._vectors:
                raise InputError(
                    "A cached teacher knows the source sentences of its set only. "
                    f"Received: {text[:60]!r}. Use the teacher itself (kdkeras.teachers.load)."
                )
            vectors[row] = self._vectors[text]
            if progress is not None and ((row + 1) % batch_size == 0 or row + 1 == len(texts)):
                progress(row + 1, len(texts))
        return vectors
