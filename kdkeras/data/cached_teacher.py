"""A teacher that returns cached embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdkeras.data.distillation_set import DistillationSet
from kdkeras.errors import InputError
from kdkeras.progress import Progress, no_progress

__all__ = ["CachedTeacher"]


class CachedTeacher:
    """Returns the embeddings that a distillation set contains.

    Use it to write a new set of a part of another one without running the
    teacher again. It has the name and the fingerprint of that teacher.

    Args:
        dataset: The set; all its embeddings are kept in memory.

    Attributes:
        name: Name of the teacher.
        fingerprint: Fingerprint of the teacher.
        embedding_dim: Width of the embeddings.
        normalized: Whether the embeddings have unit norm.

    Example:
        >>> teacher = CachedTeacher(dataset)  # doctest: +SKIP
        >>> write_distillation_set(groups[:1000], teacher, "sets/part")  # doctest: +SKIP
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
        progress: Progress = no_progress,
    ) -> np.ndarray:
        """Returns the cached embeddings of sentences.

        Args:
            texts: Source sentences of the set.
            batch_size: Number of sentences between two calls of `progress`,
                default 64.
            progress: Called as `progress(task, done, total)`, in sentences.

        Returns:
            `(len(texts), embedding_dim)` float32.

        Raises:
            InputError: If a text is not a source sentence of the set.
        """
        vectors = np.zeros((len(texts), self.embedding_dim), np.float32)
        progress("Embedding sentences", 0, len(texts))
        for row, text in enumerate(texts):
            if text not in self._vectors:
                raise InputError(
                    "A cached teacher can only embed the source sentences of its set. "
                    f"Received: {text[:60]!r}. Use the teacher itself (kdkeras.teachers.load)."
                )
            vectors[row] = self._vectors[text]
            if (row + 1) % batch_size == 0 or row + 1 == len(texts):
                progress("Embedding sentences", row + 1, len(texts))
        return vectors
