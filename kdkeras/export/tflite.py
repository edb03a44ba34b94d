"""Writes TFLite files with one set of weights and one signature per length."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from kdkeras.export.flatbuffer import share_quantization
from kdkeras.export.formats import ExportFormat, signature_name
from kdkeras.export.recipes import RECIPES, apply_recipe
from kdkeras.export.saved_model import ServingModule, tensorflow_writes
from kdkeras.layers.embedding_table import lookup
from kdkeras.students import StaticStudent, Student

__all__ = ["convert", "lite_module", "write_tflite"]

# Scales are stored as integers: multiples of the largest scale divided by this.
_STEPS = 2**30


def write_tflite(
    student: Student, path: Path, sequence_lengths: Sequence[int], item: ExportFormat
) -> None:
    """Writes a TFLite file that uses only LiteRT's built-in operations.

    Signatures are named `embed_{length}` and share the weights. Their shapes are
    fixed (batches of size one), because LiteRT's compiled runtimes reject
    dynamic lengths.

    Args:
        student: The student, computing in float32.
        path: The file to write.
        sequence_lengths: Number of tokens of each signature.
        item: The format, which decides the type of the weights; see
            `export_student`.

    Raises:
        InputError: If the student's table cannot be stored in this format.
        MissingExtraError: If the format needs ai-edge-quantizer, which is not
            installed.
    """
    module = lite_module(student, item.precision)
    signatures = {signature_name(n): module.trace(1, n) for n in sequence_lengths}
    if item in RECIPES:  # Recipes start from a float32 file.
        content = apply_recipe(convert(module, signatures, path, "float32"), item)
        content = share_quantization(content)
    else:
        content = convert(module, signatures, path, item.precision)
    path.write_bytes(content)


def convert(
    module: ServingModule, signatures: Mapping[str, Any], path: Path, precision: str
) -> bytes:
    """Converts traced functions and returns the content of the TFLite file.

    Args:
        module: The module that the functions were traced from.
        signatures: Concrete functions by signature name.
        path: The file that will be written; its folder holds temporary files.
        precision: `"float32"`, `"float16"` or `"int8"`. `"int8"` is dynamic-range
            quantization: one scale per table row and per kernel column, and
            float32 activations.
    """
    # Of the converter's three constructors, only this one keeps the weights,
    # shares them between signatures, and keeps the signatures' names. The
    # intermediate model is written next to the output, to use the same disk.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".converted-") as folder:
        with tensorflow_writes():
            tf.saved_model.save(module, folder, signatures=dict(signatures))
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if precision != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if precision == "float16":
            converter.target_spec.supported_types = [tf.float16]
        content = converter.convert()
    return share_quantization(content) if precision == "int8" else content


def lite_module(student: Student, precision: str) -> ServingModule:
    """Returns the module that a TFLite file is traced from.

    Args:
        student: The student, computing in float32.
        precision: `"float32"`, `"float16"`, `"int8"` or `"int4"`.

    Returns:
        A `ServingModule` in the form that LiteRT runs fastest.
    """
    if not isinstance(student, StaticStudent):
        return ServingModule(student)
    return _IntegerRows(student) if precision == "int8" else _Folded(student)


class _Static(ServingModule):
    """A static student whose token weights are multiplied into its table."""

    def __init__(self, student: StaticStudent) -> None:
        super().__init__(student)
        self.weights = [variable.value for variable in student.projection.variables]
        self._student = (student,)  # Not tracked, as in ServingModule.
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
    """Looks up weighted token vectors: one lookup, no exponential."""

    def __init__(self, student: StaticStudent) -> None:
        super().__init__(student)
        self._table = tf.Variable(_folded(student), trainable=False)

    def embed(self, token_ids: tf.Tensor, padding_mask: tf.Tensor) -> dict[str, tf.Tensor]:
        vectors = lookup(tf.convert_to_tensor(self._table), tf.reshape(token_ids, (-1,)))
        return self._embed(vectors, padding_mask, None)


class _IntegerRows(_Static):
    """Stores the table as int8 in the graph, with row scales as token weights.

    LiteRT's EMBEDDING_LOOKUP converts int8 to float32 one value at a time, which
    is slower than reading float32. Here, GATHER copies bytes, CAST is
    vectorized, and pooling multiplies every vector by its scale anyway. A row
    needs four bytes for its scale instead of two scales and two zero points. The
    rounding equals that of `quantized_rows`.
    """

    def __init__(self, student: StaticStudent) -> None:
        super().__init__(student)
        table = _folded(student)
        scales = np.maximum(np.abs(table).max(axis=1), 1e-9) / np.float32(127)
        rows = np.clip(np.rint(table / scales[:, None]), -127, 127)
        self._rows = tf.Variable(rows.astype(np.int8), trainable=False)
        # Integers, because the converter would quantize a float table to int8.
        self._step = np.float32(scales.max() / _STEPS)
        steps = np.rint(scales.astype(np.float64) / self._step)
        self._scales = tf.Variable(steps.astype(np.int32), trainable=False)

    def embed(self, token_ids: tf.Tensor, padding_mask: tf.Tensor) -> dict[str, tf.Tensor]:
        flat = tf.reshape(token_ids, (-1,))
        vectors = tf.cast(tf.gather(self._rows, flat), tf.float32)
        scales = tf.cast(tf.gather(self._scales, flat), tf.float32) * self._step
        return self._embed(vectors, padding_mask, scales)


def _folded(student: StaticStudent) -> np.ndarray:
    """Returns token vectors times token weights: float32 `(vocabulary_size, embedding_dim)`."""
    table = student.token_embedding.table.numpy()
    if student.token_weight is None:
        return table
    return table * np.exp(student.token_weight.table.numpy())
