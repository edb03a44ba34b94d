"""A vocabulary of the pieces that some languages use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

import numpy as np

from kdkeras.compression.rebuilding import resized, vocabulary_of
from kdkeras.compression.token_counts import token_counts
from kdkeras.data import Vocabulary
from kdkeras.data.mixed import script
from kdkeras.errors import InputError
from kdkeras.students import Student

__all__ = ["choose_tokens", "prune_vocabulary", "with_tokens"]

# A script with a smaller share of the tokens is a quotation, not the languages' own.
_SCRIPT_SHARE = 1e-3


def prune_vocabulary(
    student: Student,
    sentences: Iterable[str],
    *,
    min_count: int = 1,
    size: int | None = None,
) -> Student:
    """Leaves the pieces that the sentences of some languages use.

    Kept are, besides special tokens, all single characters of the scripts that the
    sentences are written in, so that every word of these can still be spelled. A
    text without an unknown token whose tokens were all kept is cut as before, and
    its embedding is bit-equal; a longer piece that is gone is cut into smaller ones.

    Works for each kind of vocabulary and student; positions, blocks and projection
    are the student's.

    Args:
        student: A student with a vocabulary; it stays as it is.
        sentences: Sentences of the languages that the student is for, not those that
            it is measured on, e.g. `dataset.sentences(languages=["de", "ja"])`.
        min_count: Uses that keep a piece, 1 or more.
        size: The most tokens to keep, those used most; None (the default) for all that
            are used `min_count` times.

    Returns:
        A student of its own.

    Raises:
        InputError: If there is no vocabulary or no sentence, a number is out of its
            range, or `size` is below what has to stay (the message tells it).
    """
    vocabulary = vocabulary_of(student)
    counts = token_counts(vocabulary, sentences)
    return with_tokens(student, choose_tokens(vocabulary, counts, min_count, size))


def choose_tokens(
    vocabulary: Vocabulary, counts: np.ndarray, min_count: int = 1, size: int | None = None
) -> list[int]:
    """Chooses the ids that `prune_vocabulary` keeps, ascending.

    Args:
        vocabulary: The vocabulary.
        counts: `(vocabulary.size,)`, how often each token is used.
        min_count: As for `prune_vocabulary`.
        size: As for `prune_vocabulary`.

    Raises:
        InputError: As `prune_vocabulary`.
    """
    if min_count < 1:
        raise InputError(
            f"`min_count` must be 1 or more. Received: min_count={min_count}. Use 1 to keep all "
            "that is used."
        )
    must = {*vocabulary.essential_ids, *_characters(vocabulary, counts)}
    if size is not None and size < len(must):
        raise InputError(
            f"`size` must be at least {len(must)}: special tokens and the single characters of "
            f"the scripts in use. Received: size={size}. Use a larger one."
        )
    # The earlier of equally many, which is the likelier piece.
    used = [int(i) for i in np.argsort(-counts, kind="stable") if counts[i] >= min_count]
    free = [i for i in used if i not in must]
    return sorted({*must, *(free if size is None else free[: size - len(must)])})


def _characters(vocabulary: Vocabulary, counts: np.ndarray) -> list[int]:
    """Ids of single characters in the scripts that are used, and of a bare word start."""
    texts = [vocabulary.surface(token)[0] for token in vocabulary.tokens]
    uses: Counter[str] = Counter()
    for i in np.flatnonzero(counts):
        uses[script(texts[i])] += int(counts[i])
    least = _SCRIPT_SHARE * sum(uses.values())
    scripts = {name for name, number in uses.items() if number >= least}
    return [i for i, text in enumerate(texts) if len(text) <= 1 and script(text) in scripts]


def with_tokens(student: Student, ids: list[int]) -> Student:
    """Returns a student of the tokens `ids` alone, ascending."""
    vocabulary = vocabulary_of(student).subset(ids)
    tables = ["token_embedding", "token_weight"]
    copy = resized(student, vocabulary=vocabulary, own=tables, vocabulary_size=vocabulary.size)
    for layer in student.layers:
        if layer.name in tables:
            # The first weight is the table; a kernel may follow it.
            table, *others = layer.get_weights()
            copy.get_layer(layer.name).set_weights([table[ids], *others])
    return copy
