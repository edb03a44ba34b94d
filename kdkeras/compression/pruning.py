"""A vocabulary reduced to the tokens that some languages use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from itertools import islice

import numpy as np
import tensorflow as tf

from kdkeras.compression.rebuilding import resized
from kdkeras.data import Vocabulary
from kdkeras.data.mixed import script
from kdkeras.errors import InputError
from kdkeras.students import Student

__all__ = ["choose_tokens", "prune_vocabulary", "token_counts", "vocabulary_of", "with_tokens"]

# A script with a smaller fraction of the tokens occurs in quotations only.
_SCRIPT_SHARE = 1e-3
_SENTENCES_PER_BATCH = 8_192


def prune_vocabulary(
    student: Student,
    sentences: Iterable[str],
    *,
    min_count: int = 1,
    size: int | None = None,
) -> Student:
    """Removes the tokens that the sentences of some languages do not use.

    Special tokens and all single characters of the scripts of the sentences are kept, so
    every word in these scripts can still be spelled. A text without unknown tokens whose
    tokens were all kept is tokenized as before, and its embedding is bit-identical. A
    removed token is split into smaller ones.

    Supports every kind of vocabulary and student. Positions, blocks and projection are
    unchanged.

    Args:
        student: A student with a vocabulary. It is not modified.
        sentences: Sentences of the languages that the student is for, e.g.
            `dataset.sentences(languages=["de", "ja"])`. Do not use evaluation data.
        min_count: Minimum number of uses of a token that is kept, at least 1. Default 1.
        size: Maximum number of tokens to keep, the most frequent ones. None (the default)
            for all tokens that are used at least `min_count` times.

    Returns:
        A new student.

    Raises:
        InputError: If the student has no vocabulary, there is no sentence, `min_count` is
            below 1, or `size` is smaller than the number of tokens that must be kept.
    """
    vocabulary = vocabulary_of(student)
    counts = token_counts(vocabulary, sentences)
    return with_tokens(student, choose_tokens(vocabulary, counts, min_count, size))


def vocabulary_of(student: Student) -> Vocabulary:
    """Returns the student's vocabulary.

    Raises:
        InputError: If it has none.
    """
    if student.vocabulary is None:
        raise InputError(
            "`student` must have a vocabulary. Received: a student without one. "
            "Create it with vocabulary=...."
        )
    return student.vocabulary


def token_counts(vocabulary: Vocabulary, sentences: Iterable[str]) -> np.ndarray:
    """Counts the uses of each token in sentences.

    Args:
        vocabulary: The vocabulary.
        sentences: Sentences, e.g. `dataset.sentences(languages=["de", "ja"])`. Read once
            in batches; they need not fit into memory.

    Returns:
        `(vocabulary.size,)` int64.

    Raises:
        InputError: If `sentences` is a single string, or empty.
    """
    if isinstance(sentences, str):
        raise InputError(
            f"`sentences` must be a list of strings. Received: {sentences!r}. Write [text]."
        )
    counts = np.zeros(vocabulary.size, np.int64)
    remaining, read = iter(sentences), 0
    while batch := list(islice(remaining, _SENTENCES_PER_BATCH)):
        read += len(batch)
        ids = vocabulary.tokenize(tf.constant(batch)).values.numpy()
        counts += np.bincount(ids, minlength=len(counts))
    if not read:
        raise InputError(
            "`sentences` must contain at least one sentence. Received: none. Use sentences of the "
            "languages that the student is for."
        )
    return counts


def choose_tokens(
    vocabulary: Vocabulary, counts: np.ndarray, min_count: int = 1, size: int | None = None
) -> list[int]:
    """Chooses the ids that `prune_vocabulary` keeps, in ascending order.

    Args:
        vocabulary: The vocabulary.
        counts: `(vocabulary.size,)`, the uses of each token.
        min_count: As for `prune_vocabulary`.
        size: As for `prune_vocabulary`.

    Raises:
        InputError: As for `prune_vocabulary`.
    """
    if min_count < 1:
        raise InputError(
            f"`min_count` must be at least 1. Received: min_count={min_count}. Use 1 to keep all "
            "tokens that are used."
        )
    required = {*vocabulary.essential_ids, *_characters(vocabulary, counts)}
    if size is not None and size < len(required):
        raise InputError(
            f"`size` must be at least {len(required)}, the number of special tokens and of single "
            f"characters of the scripts in use. Received: size={size}. Use {len(required)} or more."
        )
    # Of tokens with equal counts the one with the lower id, which is more probable.
    used = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i] >= min_count]
    optional = [i for i in used if i not in required]
    return sorted({*required, *(optional if size is None else optional[: size - len(required)])})


def _characters(vocabulary: Vocabulary, counts: np.ndarray) -> list[int]:
    """Returns the ids of single characters of the scripts in use, and of a bare word start."""
    texts = [vocabulary.surface(token)[0] for token in vocabulary.tokens]
    uses: Counter[str] = Counter()
    for i in np.flatnonzero(counts):
        uses[script(texts[i])] += int(counts[i])
    minimum = _SCRIPT_SHARE * sum(uses.values())
    scripts = {name for name, number in uses.items() if number >= minimum}
    return [i for i, text in enumerate(texts) if len(text) <= 1 and script(text) in scripts]


def with_tokens(student: Student, ids: list[int]) -> Student:
    """Returns a student with only the tokens `ids`, which must be ascending."""
    vocabulary = vocabulary_of(student).subset(ids)
    tables = ["token_embedding", "token_weight"]
    copy = resized(student, vocabulary=vocabulary, own=tables)
    for layer in student.layers:
        if layer.name in tables:
            # The first weight is the table. A factorized table has a kernel as well.
            table, *others = layer.get_weights()
            copy.get_layer(layer.name).set_weights([table[ids], *others])
    return copy
