"""What every vocabulary can do, and reading one back from its folder."""

from __future__ import annotations

import abc
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import tensorflow as tf

from kdkeras.config import VOCABULARY_TEMPERATURE
from kdkeras.errors import InputError
from kdkeras.files import atomic_folder
from kdkeras.strings import well_formed

if TYPE_CHECKING:
    from kdkeras.data.distillation_set import DistillationSet

__all__ = ["Vocabulary", "load_vocabulary", "train_vocabulary"]

INDEX = "vocabulary.json"
FORMAT = 1


def sha256(data: bytes) -> str:
    """Returns the hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


class Vocabulary(abc.ABC):
    """Turns strings into token ids, in the graph and outside it alike.

    There is one truth: the TensorFlow ops of `tokenize`. `encode` runs the
    same ops, so a training batch, `student.encode` and an exported graph
    cannot disagree. Texts are taken as they are: the corpus readers bring
    everything to NFC, and what a vocabulary normalises beyond that is part
    of its files, so that other runtimes do the same.

    Args:
        files: The vocabulary's files, name to content.

    Attributes:
        kind: `"wordpiece"` or `"sentencepiece"`.
        policy: One line that says how texts are normalised and split.
        pad_id: Id of the padding token, always 0.
        unknown_id: Id that stands for what the vocabulary cannot spell.
        tokens: The tokens in the order of their ids.
        fingerprint: SHA-256 over the files that decide the ids.
    """

    kind: ClassVar[str]
    policy: ClassVar[str]
    required_files: ClassVar[tuple[str, ...]]
    pad_id: int = 0
    unknown_id: int = 1
    tokens: list[str]

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)
        decisive = [f"{name}:{sha256(files[name])}" for name in self.required_files]
        self.fingerprint = sha256("\n".join([self.kind, *decisive]).encode())

    @property
    def size(self) -> int:
        """Number of tokens: the rows of a student's table."""
        return len(self.tokens)

    @abc.abstractmethod
    def tokenize(self, texts: tf.Tensor, sequence_length: int | None = None) -> tf.RaggedTensor:
        """Tokenizes in the graph.

        Args:
            texts: `(n,)` string, UTF-8.
            sequence_length: Longest row wanted, in tokens; the rest of a
                longer text is cut. None cuts nothing.

        Returns:
            `(n, None)` int32 ragged ids.
        """

    @abc.abstractmethod
    def surface(self, token: str) -> tuple[str, bool]:
        """Returns what a token spells, and whether it starts a word.

        Tokens of two vocabularies with the same surface mean the same piece
        of text. A token that spells nothing has the surface `""`.
        """

    @property
    @abc.abstractmethod
    def essential_ids(self) -> list[int]:
        """Ids that `subset` cannot do without: special tokens, and what costs hang on."""

    def subset(self, ids: Iterable[int]) -> Vocabulary:
        """Returns the vocabulary of some of the tokens, in their order.

        A text without an unknown token, all of whose tokens are kept, is cut as
        before: what is gone was not part of the best cut, so that the best cut is
        still there and still the best.

        Args:
            ids: The tokens to keep, `essential_ids` among them.

        Raises:
            InputError: If one is no id of this vocabulary, an essential one is
                missing, or the vocabulary is a SentencePiece model of merges (BPE).
        """
        kept = sorted(set(ids))
        wrong = [i for i in kept if not 0 <= i < self.size]
        missing = sorted(set(self.essential_ids).difference(kept))
        if wrong or missing:
            what = f"ids {wrong[:3]}" if wrong else f"none of {missing[:3]}"
            raise InputError(
                f"A subset must be of the ids 0 to {self.size - 1}, with the essential ones. "
                f"Received: {what}. Add vocabulary.essential_ids."
            )
        return self._subset(kept)

    @abc.abstractmethod
    def _subset(self, ids: list[int]) -> Vocabulary:
        """The vocabulary of these tokens; `ids` ascend and are complete."""

    def encode(self, texts: Sequence[str], sequence_length: int = 64) -> dict[str, np.ndarray]:
        """Tokenizes a list of strings into one padded batch.

        Args:
            texts: The strings, `n` of them. Each ends at its first NUL; what
                is no Unicode in it (lone surrogates) counts as U+FFFD.
            sequence_length: Longest row in tokens, default 64; longer texts
                are cut.

        Returns:
            `token_ids` and `padding_mask` (1 = real token), both
            `(n, length)` int32, where `length` is the longest row.

        Raises:
            InputError: If `texts` is one string instead of a list of them.
        """
        if isinstance(texts, (str, bytes)):
            raise InputError(
                f"`texts` must be a list of strings. Received: {texts!r}. Write [text] for one."
            )
        values = np.array([well_formed(text).encode("utf-8") for text in texts], dtype=object)
        ragged = self.tokenize(tf.constant(values, tf.string, shape=(len(texts),)), sequence_length)
        ids = ragged.to_tensor(self.pad_id)
        mask = tf.sequence_mask(ragged.row_lengths(), tf.shape(ids)[1], tf.int32)
        return {"token_ids": ids.numpy(), "padding_mask": mask.numpy()}

    def save(self, folder: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Writes the vocabulary's files and `vocabulary.json` into a folder.

        Raises:
            InputError: If `folder` exists and `overwrite` is false, or it
                cannot be written.
        """
        index = {
            "format": FORMAT,
            "kind": self.kind,
            "size": self.size,
            "policy": self.policy,
            "pad_id": self.pad_id,
            "unknown_id": self.unknown_id,
            "fingerprint": self.fingerprint,
            "files": {name: sha256(data) for name, data in self.files.items()},
        }
        with atomic_folder(folder, overwrite) as temporary:
            for name, data in self.files.items():
                (temporary / name).write_bytes(data)
            (temporary / INDEX).write_text(json.dumps(index, indent=2) + "\n")
        return Path(folder)

    def __repr__(self) -> str:
        return f"{type(self).__name__}(size={self.size}, fingerprint={self.fingerprint[:12]})"


def _read(folder: Path, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise InputError(
            f"A vocabulary folder must hold `{name}`. Received: {folder} ({error.strerror}). "
            "Train the vocabulary again, or copy the whole folder."
        ) from error


def _read_index(folder: Path) -> dict[str, Any]:
    data = _read(folder, INDEX)
    try:
        index = json.loads(data)
        known = index["kind"] in ("wordpiece", "sentencepiece") and index["format"] == FORMAT
        if not known or not isinstance(index["files"], dict):
            raise KeyError(f"kind {index['kind']!r}, format {index['format']!r}")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"`{INDEX}` must be the index of a kdkeras vocabulary of format {FORMAT}. "
            f"Received: {folder / INDEX} ({error}). Train the vocabulary again."
        ) from error
    return index


def load_vocabulary(folder: str | os.PathLike[str]) -> Vocabulary:
    """Reads a vocabulary that `Vocabulary.save` wrote.

    Args:
        folder: The folder with `vocabulary.json`.

    Raises:
        InputError: If the folder lacks a file, or a file is not the one that
            was saved (its SHA-256 differs).
    """
    # Here, because the two kinds themselves import this module.
    from kdkeras.data.sentencepiece import SentencePieceVocabulary
    from kdkeras.data.wordpiece import WordPieceVocabulary

    folder = Path(folder)
    index = _read_index(folder)
    kinds: dict[str, type[Vocabulary]] = {
        "wordpiece": WordPieceVocabulary,
        "sentencepiece": SentencePieceVocabulary,
    }
    kind = kinds[index["kind"]]
    names = [*kind.required_files, *(n for n in index["files"] if n not in kind.required_files)]
    files = {Path(name).name: _read(folder, Path(name).name) for name in names}
    for name, data in files.items():
        if sha256(data) != index["files"].get(name):
            raise InputError(
                f"A vocabulary's files must be the ones that were saved. Received: {folder / name} "
                f"with SHA-256 {sha256(data)[:12]}…, expected "
                f"{str(index['files'].get(name))[:12]}…. Copy the whole folder again."
            )
    return kind(files)


def _texts(sentences: Iterable[str] | DistillationSet, temperature: float) -> Iterator[str]:
    if hasattr(sentences, "sentences"):
        return sentences.sentences(language_temperature=temperature)
    return iter(sentences)


def train_vocabulary(
    sentences: Iterable[str] | DistillationSet,
    size: int,
    kind: str = "mixed",
    seed: int = 0,
    language_temperature: float = VOCABULARY_TEMPERATURE,
) -> Vocabulary:
    """Learns a vocabulary from sentences.

    `"sentencepiece"` learns unigram pieces of words whose punctuation was set
    apart first. `"mixed"` (the default) does so for scripts without spaces and
    for Arabic and Hebrew, and learns words and their beginnings elsewhere; the
    result is a SentencePiece model, too. `"wordpiece"` learns BERT's word pieces
    over the whole alphabet, with ideographs split singly, for runtimes that have
    no SentencePiece. All run exactly in TensorFlow and in mobile runtimes.
    `benchmarks/static_student.py` compares them by language.

    Args:
        sentences: Strings, or a distillation set (all its sentences count,
            those of small languages more often).
            Up to two million are used as they are; of more, a sample drawn
            with `seed`.
        size: Number of tokens wanted, e.g. 32,000.
        kind: `"mixed"`, `"sentencepiece"` or `"wordpiece"`.
        seed: Seed of the sample.
        language_temperature: For a distillation set, from 0 (all languages
            count alike) to 1 (every sentence counts once), default 0.7.

    Returns:
        The vocabulary, with exactly `size` tokens.

    Raises:
        InputError: If `kind` is unknown, or the text is too small (or has
            too many characters) for `size`; the message names the size that
            works.
    """
    from kdkeras.data.mixed import train_mixed
    from kdkeras.data.sentencepiece import train_sentencepiece
    from kdkeras.data.wordpiece import train_wordpiece

    trainers = {
        "mixed": train_mixed,
        "sentencepiece": train_sentencepiece,
        "wordpiece": train_wordpiece,
    }
    if kind not in trainers:
        raise InputError(
            f"`kind` must be one of {sorted(trainers)}. Received: kind={kind!r}. "
            'Use "mixed" if in doubt.'
        )
    if isinstance(size, bool) or not isinstance(size, int) or size < 8:
        raise InputError(
            f"`size` must be a whole number from 8. Received: size={size!r}. Use 32000."
        )
    return trainers[kind](sample_sentences(_texts(sentences, language_temperature), seed), size)


def sample_sentences(texts: Iterator[str], seed: int, most: int = 2_000_000) -> list[str]:
    """Returns all texts, or a uniform sample of `most` of them (in order)."""
    generator = np.random.default_rng(seed)
    kept: list[tuple[int, str]] = []
    for number, text in enumerate(texts):
        if number < most:
            kept.append((number, text))
        elif (place := int(generator.integers(number + 1))) < most:
            kept[place] = (number, text)
    if not any(text.strip() for _, text in kept):
        raise InputError(
            f"A vocabulary is learned from sentences. Received: {len(kept)} texts, none with any "
            "character. Give the corpus or the distillation set to learn from."
        )
    return [text for _, text in sorted(kept)]
