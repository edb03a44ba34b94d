"""Writing SavedModels: one that takes ids, one that takes strings."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import tensorflow as tf

from kdkeras.export.serving import ServingModule

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary
    from kdkeras.students import Student

__all__ = ["tensorflow_writes", "write_saved_model", "write_text_saved_model"]


@contextmanager
def tensorflow_writes() -> Iterator[None]:
    """Turns TensorFlow's errors of writing (full disk, ...) into `OSError`."""
    try:
        yield
    except (
        tf.errors.DataLossError,
        tf.errors.FailedPreconditionError,
        tf.errors.OutOfRangeError,  # the system's limit of a file's size
        tf.errors.PermissionDeniedError,
        tf.errors.ResourceExhaustedError,  # no space left
        tf.errors.UnknownError,
    ) as error:
        # "{{node ...}} path; No space left on device [Op:SaveV2]"
        reason = str(error.message).splitlines()[0].rsplit(";", 1)[-1].split(" [Op:")[0]
        raise OSError(errno.EIO, reason.strip()) from error


def write_saved_model(student: Student, folder: Path) -> None:
    """Writes a SavedModel on token ids; plain TensorFlow loads it.

    Signature `serving_default`: `token_ids` and `padding_mask` int32 `(N, L)`
    to `embedding` float32 `(N, output_dim)`.
    """
    module = ServingModule(student)
    with tensorflow_writes():
        tf.saved_model.save(
            module, str(folder), signatures={"serving_default": module.trace(None, None)}
        )


def write_text_saved_model(student: Student, vocabulary: Vocabulary, folder: Path) -> None:
    """Writes a SavedModel on strings, with the tokenizer in its graph.

    A program that loads it has to `import tensorflow_text` first.

    Signatures: `serving_default`: `texts` string `(N,)` to `embedding`
    float32 `(N, output_dim)`; `tokenize`: `texts` to `token_ids` and
    `padding_mask` int32 `(N, L)`, cut off at the student's sequence length.
    Bytes that are no UTF-8 count as U+FFFD, and a text ends at its first NUL.
    """
    module = ServingModule(student)
    # The tokenizer's tables and models have to be tracked to be stored.
    module.tokenizer = [part for part in vars(vocabulary).values() if isinstance(part, tf.Module)]
    texts = tf.TensorSpec((None,), tf.string, name="texts")

    def tokenize(texts: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = vocabulary.tokenize(_well_formed(texts), student.sequence_length)
        # At least one column: attention over none is not defined everywhere.
        length = tf.maximum(rows.bounding_shape(axis=1, out_type=tf.int64), 1)
        ids = rows.to_tensor(vocabulary.pad_id, shape=tf.stack([-1, length]))
        mask = tf.sequence_mask(rows.row_lengths(), length, tf.int32)
        return {"token_ids": ids, "padding_mask": mask}

    def embed(texts: tf.Tensor) -> dict[str, tf.Tensor]:
        return module.embed(**tokenize(texts))

    signatures = {"serving_default": embed, "tokenize": tokenize}
    with tensorflow_writes():
        tf.saved_model.save(
            module,
            str(folder),
            signatures={
                name: tf.function(function, autograph=False).get_concrete_function(texts)
                for name, function in signatures.items()
            },
        )


def _well_formed(texts: tf.Tensor) -> tf.Tensor:
    """What `kdkeras.strings.well_formed` does, in the graph."""
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
    return tf.strings.regex_replace(texts, "\\x00(?s:.*)", "")
