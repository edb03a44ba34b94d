"""Writing and reading the TFRecord shards of a distillation set."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kdkeras.data.corpus import SentenceGroup
from kdkeras.errors import InputError

__all__ = [
    "count_records",
    "file_sha256",
    "parse_records",
    "read_shard",
    "shard_name",
    "write_shard",
]

FEATURES = {
    "source": tf.io.FixedLenFeature([], tf.string),
    "source_language": tf.io.FixedLenFeature([], tf.string),
    "translations": tf.io.RaggedFeature(tf.string),
    "languages": tf.io.RaggedFeature(tf.string),
    "embedding": tf.io.FixedLenFeature([], tf.string),
}


def shard_name(number: int) -> str:
    """Returns the file name of the shard with this number."""
    return f"shard-{number:05d}.tfrecord"


def _feature(values: Sequence[bytes]) -> tf.train.Feature:
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))


def serialize(group: SentenceGroup, embedding: np.ndarray) -> bytes:
    """Returns the serialized record of one group.

    Args:
        group: The source sentence and its translations.
        embedding: `(embedding_dim,)` float16.
    """
    feature = {
        "source": _feature([group.source.encode()]),
        "source_language": _feature([group.source_language.encode()]),
        "translations": _feature([text.encode() for text in group.translations]),
        "languages": _feature([language.encode() for language in group.languages]),
        "embedding": _feature([embedding.astype("<f2").tobytes()]),
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    return example.SerializeToString(deterministic=True)


def parse_records(serialized: tf.Tensor) -> dict[str, Any]:
    """Parses a batch of records in the graph.

    Args:
        serialized: `(n,)` string.

    Returns:
        `source`, `source_language` and `embedding` (float16 bytes), `(n,)`
        string; `translations` and `languages`, `(n, None)` ragged string.
    """
    return tf.io.parse_example(serialized, FEATURES)


@contextmanager
def _as_os_errors(path: Path) -> Iterator[None]:
    """Raises TensorFlow's file errors as `OSError`."""
    codes = {
        tf.errors.ResourceExhaustedError: errno.ENOSPC,
        tf.errors.PermissionDeniedError: errno.EACCES,
        tf.errors.NotFoundError: errno.ENOENT,
    }
    try:
        yield
    except tf.errors.OpError as error:
        code = codes.get(type(error), errno.EIO)
        raise OSError(code, os.strerror(code), str(path)) from error


def write_shard(path: Path, groups: Sequence[SentenceGroup], embeddings: np.ndarray) -> None:
    """Writes a shard to a temporary file and renames it once it is on disk.

    Raises:
        InputError: If the file cannot be written (full disk, no permission).
    """
    temporary = path.with_name(f".{path.name}.partial")
    try:
        with _as_os_errors(temporary), tf.io.TFRecordWriter(str(temporary)) as writer:
            for group, embedding in zip(groups, embeddings, strict=True):
                writer.write(serialize(group, embedding))
            writer.flush()
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(
            f"A shard must be writable. Received: {path} ({error.strerror}). Free some space or "
            "change the permissions, then call again: complete shards are kept."
        ) from error


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Raises TensorFlow's errors as an `InputError` that names the shard."""
    try:
        yield
    except tf.errors.OpError as error:
        reason = str(error.message).split("[[")[0].splitlines()[0][:120]
        raise InputError(
            f"A shard must be complete. Received: {path} ({reason}). "
            "Delete the distillation set's folder and write it again, or copy the shard again."
        ) from error


def read_shard(path: Path, batch_size: int = 1024) -> Iterator[dict[str, Any]]:
    """Yields parsed batches of up to `batch_size` records of a shard.

    Raises:
        InputError: If the shard is damaged; the message names it.
    """
    with _naming(path):
        yield from tf.data.TFRecordDataset(str(path)).batch(batch_size).map(parse_records)


def count_records(path: Path) -> int:
    """Returns the number of records of a shard; the CRC of each one is checked.

    Raises:
        InputError: If the shard is damaged; the message names it.
    """
    with _naming(path):
        return int(tf.data.TFRecordDataset(str(path)).reduce(np.int64(0), lambda n, _: n + 1))


def file_sha256(path: Path) -> str:
    """Returns the hexadecimal SHA-256 of a file.

    Raises:
        InputError: If the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(
            f"A shard must be readable. Received: {path} ({error.strerror}). Copy it again."
        ) from error
