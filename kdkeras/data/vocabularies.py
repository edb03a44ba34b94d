"""Training and loading vocabularies of every kind."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from kdkeras.data.distillation_set import DistillationSet
from kdkeras.data.mixed import train_mixed
from kdkeras.data.sentencepiece import SentencePieceVocabulary, train_sentencepiece
from kdkeras.data.vocabulary import FORMAT, INDEX, Vocabulary, VocabularySizeError, sha256
from kdkeras.data.wordpiece import WordPieceVocabulary, train_wordpiece
from kdkeras.errors import InputError
from kdkeras.progress import Progress, no_progress
from kdkeras.recipe import Recipe

__all__ = ["load_vocabulary", "sample_sentences", "train_vocabulary"]

KINDS: dict[str, type[Vocabulary]] = {
    "wordpiece": WordPieceVocabulary,
    "sentencepiece": SentencePieceVocabulary,
}
TRAINERS: dict[str, Callable[[list[str], int], Vocabulary]] = {
    "mixed": train_mixed,
    "sentencepiece": train_sentencepiece,
    "wordpiece": train_wordpiece,
}


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise InputError(
            f"A vocabulary folder must contain `{name}`. Received: {folder} ({error.strerror}). "
            "Train the vocabulary again, or copy the complete folder."
        ) from error


def _read_index(folder: Path) -> dict[str, Any]:
    data = _read(folder, INDEX)
    try:
        index = json.loads(data)
        known = index["kind"] in KINDS and index["format"] == FORMAT
        if not known or not isinstance(index["files"], dict):
            raise KeyError(f"kind {index['kind']!r}, format {index['format']!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"`{INDEX}` must be the index of a kdkeras vocabulary of format {FORMAT}. "
            f"Received: {folder / INDEX} ({error}). Train the vocabulary again."
        ) from error
    return index


def load_vocabulary(folder: str | os.PathLike[str]) -> Vocabulary:
    """Loads a vocabulary that `Vocabulary.save` wrote.

    Args:
        folder: Folder with `vocabulary.json`.

    Returns:
        The vocabulary.

    Raises:
        InputError: If a file is missing, or its SHA-256 is not that of the
            saved file.
    """
    folder = Path(folder)
    index = _read_index(folder)
    kind = KINDS[index["kind"]]
    names = [*kind.required_files, *(n for n in index["files"] if n not in kind.required_files)]
    files = {Path(name).name: _read(folder, Path(name).name) for name in names}
    for name, data in files.items():
        expected = index["files"].get(name)
        if sha256(data) != expected:
            raise InputError(
                "The files of a vocabulary must be unchanged. "
                f"Received: {folder / name} with SHA-256 {sha256(data)[:12]}…, "
                f"expected {str(expected)[:12]}…. Copy the complete folder again."
            )
    return kind(files)


def train_vocabulary(
    sentences: Iterable[str] | DistillationSet,
    size: int,
    kind: str = "mixed",
    seed: int = 0,
    language_temperature: float = Recipe.vocabulary_temperature,
    progress: Progress = no_progress,
) -> Vocabulary:
    """Trains a vocabulary on sentences.

    There are three kinds. Each gives identical ids in TensorFlow and in mobile
    runtimes; `benchmarks/static_student.py` compares them by language.

    - `"mixed"` (the default): words and beginnings of words; unigram pieces for
      scripts without spaces and for Arabic and Hebrew. A SentencePiece model.
    - `"sentencepiece"`: unigram pieces; punctuation is split off first.
    - `"wordpiece"`: BERT's word pieces of the full alphabet; ideographs are
      split one by one. For runtimes without SentencePiece.

    Args:
        sentences: Strings, or a distillation set, of which both sides are
            used. Of more than two million sentences, a random sample of two
            million is used.
        size: Number of tokens, at least 8, e.g. 32,000. If the sentences are too few
            for it, the largest possible size is used, with a warning.
        kind: `"mixed"`, `"sentencepiece"` or `"wordpiece"`.
        seed: Seed of the sample.
        language_temperature: For a distillation set, from 0 (all languages
            are weighted equally) to 1 (each sentence is used once), default
            0.7. Below 1, sentences of small languages are repeated; see
            `DistillationSet.sentences`.
        progress: Called as `progress(task, done, total)`; the pieces are
            reading and training.

    Returns:
        The vocabulary, with `size` tokens, or fewer if there are too few sentences.

    Raises:
        InputError: If `kind` is unknown, or `size` is too small for the characters of
            these sentences; the message states the smallest possible size.
    """
    if kind not in TRAINERS:
        raise InputError(
            f"`kind` must be one of {sorted(TRAINERS)}. Received: kind={kind!r}. "
            'Use "mixed" for most students.'
        )
    if isinstance(size, bool) or not isinstance(size, int) or size < 8:
        raise InputError(
            f"`size` must be an integer of at least 8. Received: size={size!r}. Use 32000."
        )
    progress("Training a vocabulary, reading", 0, 2)
    texts = sample_sentences(_texts(sentences, language_temperature), seed)
    progress(f"Training a vocabulary, {len(texts):,} sentences", 1, 2)
    vocabulary = _trained(texts, size, kind)
    progress("Training a vocabulary", 2, 2)
    return vocabulary


def _trained(texts: list[str], size: int, kind: str) -> Vocabulary:
    try:
        return TRAINERS[kind](texts, size)
    except VocabularySizeError as error:
        if error.largest is None:
            raise
        warnings.warn(
            f"{len(texts):,} sentences are too few for a vocabulary of {size:,} tokens: it has "
            f"{error.largest:,}, the largest possible size.",
            UserWarning,
            stacklevel=3,  # To the call of `train_vocabulary`.
        )
        return TRAINERS[kind](texts, error.largest)


def _texts(sentences: Iterable[str] | DistillationSet, temperature: float) -> Iterator[str]:
    if isinstance(sentences, DistillationSet):
        return sentences.sentences(language_temperature=temperature)
    return iter(sentences)


def sample_sentences(texts: Iterator[str], seed: int, max_sentences: int = 2_000_000) -> list[str]:
    """Returns all texts, or a uniform sample of `max_sentences`, in order.

    Raises:
        InputError: If all texts are blank.
    """
    generator = np.random.default_rng(seed)
    kept: list[tuple[int, str]] = []
    for number, text in enumerate(texts):
        if number < max_sentences:
            kept.append((number, text))
        elif (place := int(generator.integers(number + 1))) < max_sentences:
            kept[place] = (number, text)
    if not any(text.strip() for _, text in kept):
        raise InputError(
            "A vocabulary needs sentences with text. "
            f"Received: {len(kept)} texts, all blank. Pass a corpus or a distillation set."
        )
    return [text for _, text in sorted(kept)]
