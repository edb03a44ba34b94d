"""Students in the form that LiteRT runs fastest."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from kdkeras.export.serving import ServingModule
from kdkeras.layers.embedding_table import lookup
from kdkeras.students import StaticStudent, Student

__all__ = ["lite_module"]

# Weights of tokens are stored as whole multiples of the largest one by this.
_STEPS = 2**30


def lite_module(student: Student, precision: str) -> ServingModule:
    """Returns what a TFLite file of a student is traced from.

    Args:
        student: The student, computing in float32.
        precision: `"float32"`, `"float16"`, `"int8"` or `"int4"`.
    """
    if not isinstance(student, StaticStudent):
        return ServingModule(student)
    return _IntegerRows(student) if precision == "int8" else _Folded(student)


class _Static(ServingModule):
    """A static student whose token weights are multiplied in, not looked up."""

    def __init__(self, student: StaticStudent) -> None:
        super().__init__(student)
        self.weights = [variable.value for variable in student.projection.variables]
        self._student = (student,)  # A tuple hides the Keras model, as in ServingModule.
        self._width = student.embedding_dim

    def _embed(
        self, vectors: tf.Tensor, padding_mask: tf.Tensor, weights: tf.Tensor | None
    ) -> dict[str, tf.Tensor]:
        student = self._student[0]
        length = padding_mask.shape[1]
        vectors = tf.reshape(vectors, (-1, length, self._width))
        if weights is not None:
            weights = tf.reshape(weights, (-1, length, 1))
        return {"embedding": student.embed_pooled(student.pooling(vectors, padding_mask, weights))}


class _Folded(_Static):
    """The table is that of the weighted vectors: one lookup and no exponential."""

    def __init__(self, student: StaticStudent) -> None:
        super().__init__(student)
        self._table = tf.Variable(_folded(student), trainable=False)

    def embed(self, token_ids: tf.Tensor, padding_mask: tf.Tensor) -> dict[str, tf.Tensor]:
        vectors = lookup(tf.convert_to_tensor(self._table), tf.reshape(token_ids, (-1,)))
        return self._embed(vectors, padding_mask, None)


class _IntegerRows(_Static):
    """The table is int8 in the graph itself, its rows' scales are token weights.

    LiteRT's EMBEDDING_LOOKUP turns int8 into float32 number by number, slower
    than it would read float32. Here GATHER copies bytes, CAST is vectorised,
    and the scale is part of the token's weight, by which a vector is
    multiplied anyway. Four bytes a row instead of two scales and two zero
    points. The rounding is that of `quantized_rows`.
    """

    def __init__(self, student: StaticStudent) -> None:
        super().__init__(student)
        table = _folded(student)
        scales = np.maximum(np.abs(table).max(axis=1), 1e-9) / np.float32(127)
        rows = np.clip(np.rint(table / scales[:, None]), -127, 127)
        self._rows = tf.Variable(rows.astype(np.int8), trainable=False)
        # Whole numbers: the converter would make int8 of a float table.
        self._step = np.float32(scales.max() / _STEPS)
        steps = np.rint(scales.astype(np.float64) / self._step)
        self._scales = tf.Variable(steps.astype(np.int32), trainable=False)

    def embed(self, token_ids: tf.Tensor, padding_mask: tf.Tensor) -> dict[str, tf.Tensor]:
        flat = tf.reshape(token_ids, (-1,))
        vectors = tf.cast(tf.gather(self._rows, flat), tf.float32)
        scales = tf.cast(tf.gather(self._scales, flat), tf.float32) * self._step
        return self._embed(vectors, padding_mask, scales)


def _folded(student: StaticStudent) -> np.ndarray:
    """Each token's vector times its weight, float32 `(vocabulary_size, embedding_dim)`."""
    table = student.token_embedding.table.numpy()
    if student.token_weight is None:
        return table
    return table * np.exp(student.token_weight.table.numpy())
