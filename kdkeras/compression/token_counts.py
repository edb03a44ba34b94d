"""How often sentences use each token."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

import numpy as np
import tensorflow as tf

from kdkeras.data import Vocabulary
from kdkeras.errors import InputError

__all__ = ["token_counts"]

_AT_ONCE = 8_192


def token_counts(vocabulary: Vocabulary, sentences: Iterable[str]) -> np.ndarray:
    """Counts how often sentences use each token.

    Args:
        vocabulary: The vocabulary.
        sentences: Sentences, e.g. `dataset.sentences(languages=["de", "ja"])`; read
            once, never all in memory.

    Returns:
        `(vocabulary.size,)` int64.

    Raises:
        InputError: If it is a single string, or there is no sentence.
    """
    if isinstance(sentences, str):
        raise InputError(
            f"`sentences` must be a list of strings. Received: {sentences!r}. Write [text]."
        )
    counts = np.zeros(vocabulary.size, np.int64)
    remaining, read = iter(sentences), 0
    while batch := list(islice(remaining, _AT_ONCE)):
        read += len(batch)
        ids = vocabulary.tokenize(tf.constant(batch)).values.numpy()
        counts += np.bincount(ids, minlength=len(counts))
    if not read:
        raise InputError(
            "Tokens are counted in sentences. Received: none. Pass those of the languages that "
            "the student is for."
        )
    return counts
