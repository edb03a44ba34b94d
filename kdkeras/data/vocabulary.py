"""The interface of every vocabulary."""

from __future__ import annotations

import abc
import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import tensorflow as tf

from kdkeras.errors import InputError
from kdkeras.files import atomic_folder
from kdkeras.strings import well_formed

__all__ = ["FORMAT", "INDEX", "Vocabulary", "VocabularySizeError", "sha256"]

INDEX = "vocabulary.json"
"""File of a vocabulary's folder that lists the other files and their hashes."""
FORMAT = 1


def sha256(data: bytes) -> str:
    """Returns the hexadecimal SHA-256 of `data`."""
    return hashlib.sha256(data).hexdigest()


class VocabularySizeError(InputError):
    """A size that is not possible with the sentences.

    Attributes:
        largest: The largest possible size, or None if the size is too small.
    """

    def __init__(self, message: str, largest: int | None = None) -> None:
        super().__init__(message)
        self.largest = largest


class Vocabulary(abc.ABC):
    """Converts strings to token ids, inside and outside the TensorFlow graph.

    `encode` runs the same TensorFlow ops as `tokenize`, so a training batch,
    `student.encode` and an exported graph always agree. Texts are expected
    in NFC, as the corpus readers return them. Any further normalization is
    part of the vocabulary's files, so that every runtime applies it.

    Create one with `train_vocabulary` or `load_vocabulary`.

    Args:
        files: Content of the vocabulary's files by name.

    Attributes:
        kind: `"wordpiece"` or `"sentencepiece"`.
        policy: One line that describes normalization and splitting.
        pad_id: Id of the padding token, always 0.
        unknown_id: Id of the token for text that the vocabulary cannot
            represent.
        tokens: The tokens, in the order of their ids.
        fingerprint: SHA-256 of the files that determine the ids.
    """

    kind: ClassVar[str]
    policy: ClassVar[str]
    required_files: ClassVar[tuple[str, ...]]
    pad_id: int = 0
    unknown_id: int = 1
    tokens: list[str]

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = dict(files)
        hashes = [f"{name}:{sha256(files[name])}" for name in self.required_files]
        self.fingerprint = sha256("\n".join([self.kind, *hashes]).encode())

    @property
    def size(self) -> int:
        """Number of tokens: the number of rows of a student's embedding table."""
        return len(self.tokens)

    @abc.abstractmethod
    def tokenize(self, texts: tf.Tensor, sequence_length: int | None = None) -> tf.RaggedTensor:
        """Tokenizes strings in the graph.

        Args:
            texts: `(n,)` string tensor, UTF-8.
            sequence_length: Maximum number of tokens per text; longer texts
                are truncated. None (the default) does not truncate.

        Returns:
            `(n, None)` ragged int32 ids.
        """

    @abc.abstractmethod
    def surface(self, token: str) -> tuple[str, bool]:
        """Returns the text of a token, and whether the token starts a word.

        Tokens of two vocabularies with the same surface represent the same
        piece of text. Tokens without text, e.g. padding, have the text `""`.
        """

    @property
    @abc.abstractmethod
    def essential_ids(self) -> list[int]:
        """Ids that every subset must keep, e.g. of special tokens."""

    def subset(self, ids: Iterable[int]) -> Vocabulary:
        """Returns a vocabulary of some of the tokens, in their order.

        A text whose tokens are all kept, without an unknown token, is
        tokenized as before.

        Args:
            ids: Ids of the tokens to keep, including `essential_ids`.

        Raises:
            InputError: If an id is out of range, an essential id is missing,
                or the vocabulary is a SentencePiece BPE model.
        """
        kept = sorted(set(ids))
        wrong = [i for i in kept if not 0 <= i < self.size]
        missing = sorted(set(self.essential_ids).difference(kept))
        if wrong or missing:
            received = f"ids {wrong[:3]}" if wrong else f"ids without {missing[:3]}"
            raise InputError(
                f"`ids` must be from 0 to {self.size - 1} and include the essential ids. "
                f"Received: {received}. Add vocabulary.essential_ids."
            )
        return self._subset(kept)

    @abc.abstractmethod
    def _subset(self, ids: list[int]) -> Vocabulary:
        """Returns the vocabulary of these ids, which are sorted and valid."""

    def encode(self, texts: Sequence[str], sequence_length: int = 64) -> dict[str, np.ndarray]:
        """Tokenizes a list of strings into one padded batch.

        Args:
            texts: `n` strings. Each ends at its first NUL character; lone
                surrogates are read as U+FFFD.
            sequence_length: Maximum number of tokens per text, default 64;
                longer texts are truncated.

        Returns:
            `token_ids` and `padding_mask` (1 = real token), both
            `(n, length)` int32, where `length` is that of the longest text.

        Raises:
            InputError: If `texts` is a single string.
        """
        if isinstance(texts, (str, bytes)):
            raise InputError(
                f"`texts` must be a list of strings. Received: {texts!r}. Pass [text] for one text."
            )
        values = np.array([well_formed(text).encode("utf-8") for text in texts], dtype=object)
        ragged = self.tokenize(tf.constant(values, tf.string, shape=(len(texts),)), sequence_length)
        ids = ragged.to_tensor(self.pad_id)
        mask = tf.sequence_mask(ragged.row_lengths(), tf.shape(ids)[1], tf.int32)
        return {"token_ids": ids.numpy(), "padding_mask": mask.numpy()}

    def save(self, folder: str | os.PathLike[str], overwrite: bool = False) -> Path:
        """Writes the vocabulary's files and `vocabulary.json` to a folder.

        Args:
            folder: The folder to create.
            overwrite: Whether to replace an existing folder.

        Returns:
            The folder.

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
