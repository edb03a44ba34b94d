"""Writes SavedModels: one that takes token ids and one that takes strings."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary
    from kdkeras.students import Student

__all__ = [
    "ServingModule",
    "float32_student",
    "tensorflow_writes",
    "write_saved_model",
    "write_text_saved_model",
]


def float32_student(student: Student) -> Student:
    """Returns the student, or a copy if it does not compute in plain float32.

    Half precision and fake quantization are used in training only. Artifacts
    are made from the float32 weights and compute in float32.
    """
    if student.compute_dtype == "float32" and student.fake_quantization is None:
        return student
    return student.clone(dtype="float32")


class ServingModule(tf.Module):
    """A student as a `tf.Module`, from which SavedModels and TFLite files are traced.

    `keras.Model.export` stores every variable twice, and the TFLite converter
    drops the weights of a Keras model without an error. A plain module that
    tracks every variable once avoids both.

    Args:
        student: The student, computing in float32.
    """

    def __init__(self, student: Student) -> None:
        super().__init__(name="student")
        self.weights = [variable.value for variable in student.variables]
        # In a tuple, TensorFlow does not track the Keras model, which would store it again.
        self._call: tuple[Callable[[dict[str, tf.Tensor]], tf.Tensor]] = (
            lambda inputs: student(inputs, training=False),
        )

    def embed(self, token_ids: tf.Tensor, padding_mask: tf.Tensor) -> dict[str, tf.Tensor]:
        """Embeds token ids.

        Args:
            token_ids: int32 `(N, L)`.
            padding_mask: int32 `(N, L)`; 1 marks a real token.

        Returns:
            `embedding`: float32 `(N, output_dim)`.
        """
        embedding = self._call[0]({"token_ids": token_ids, "padding_mask": padding_mask})
        return {"embedding": tf.cast(embedding, tf.float32)}

    def trace(self, batch: int | None, length: int | None) -> Any:
        """Returns the concrete function of `embed` for one input shape.

        Args:
            batch: Number of rows; None for any.
            length: Number of tokens per row; None for any.
        """

        def ids(name: str) -> tf.TensorSpec:
            return tf.TensorSpec((batch, length), tf.int32, name=name)

        function = tf.function(self.embed, autograph=False)
        return function.get_concrete_function(ids("token_ids"), ids("padding_mask"))


@contextmanager
def tensorflow_writes() -> Iterator[None]:
    """Converts TensorFlow's write errors, e.g. for a full disk, into `OSError`."""
    try:
        yield
    except (
        tf.errors.DataLossError,
        tf.errors.FailedPreconditionError,
        tf.errors.OutOfRangeError,  # The system's maximum file size is exceeded.
        tf.errors.PermissionDeniedError,
        tf.errors.ResourceExhaustedError,  # No space is left.
        tf.errors.UnknownError,
    ) as error:
        # "{{node ...}} path; No space left on device [Op:SaveV2]"
        reason = str(error.message).splitlines()[0].rsplit(";", 1)[-1].split(" [Op:")[0]
        raise OSError(errno.EIO, reason.strip()) from error


def write_saved_model(student: Student, folder: Path) -> None:
    """Writes a SavedModel that takes token ids and needs only TensorFlow.

    The inputs of its signature `serving_default` are `token_ids` and
    `padding_mask`, int32 `(N, L)`, and its output is `embedding`, float32
    `(N, output_dim)`.
    """
    module = ServingModule(student)
    with tensorflow_writes():
        tf.saved_model.save(
            module, str(folder), signatures={"serving_default": module.trace(None, None)}
        )


def write_text_saved_model(student: Student, vocabulary: Vocabulary, folder: Path) -> None:
    """Writes a SavedModel that takes strings: its graph contains the tokenizer.

    A program must `import tensorflow_text` before it loads the SavedModel.

    The input of both signatures is `texts`, string `(N,)`. `serving_default`
    returns `embedding`, float32 `(N, output_dim)`. `tokenize` returns
    `token_ids` and `padding_mask`, int32 `(N, L)`, truncated to the student's
    sequence length. Bytes that are not valid UTF-8 are replaced by U+FFFD, and a
    text ends at its first NUL.
    """
    module = ServingModule(student)
    # The module tracks the tokenizer's tables and models, so that they are stored.
    module.tokenizer = [part for part in vars(vocabulary).values() if isinstance(part, tf.Module)]
    texts = tf.TensorSpec((None,), tf.string, name="texts")

    def tokenize(texts: tf.Tensor) -> dict[str, tf.Tensor]:
        rows = vocabulary.tokenize(_well_formed(texts), student.sequence_length)
        # At least one column: not every runtime defines attention over zero tokens.
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
    """The same as `kdkeras.strings.well_formed`, in the graph."""
    texts = tf.strings.unicode_transcode(texts, "UTF-8", "UTF-8", errors="replace")
    return tf.strings.regex_replace(texts, "\\x00(?s:.*)", "")
