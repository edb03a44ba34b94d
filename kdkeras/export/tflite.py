"""Writing TFLite files: one set of weights, one signature a length."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from kdkeras.export.flatbuffer import share_quantization
from kdkeras.export.formats import signature_name
from kdkeras.export.saved_model import tensorflow_writes
from kdkeras.export.serving import ServingModule

if TYPE_CHECKING:
    from kdkeras.students import Student

__all__ = ["convert", "write_tflite"]


def write_tflite(
    student: Student, path: Path, sequence_lengths: Sequence[int], *, quantize: bool
) -> None:
    """Writes a TFLite file of LiteRT's built-in operations alone.

    Shapes are fixed (batch 1), because a dynamic length is rejected by
    LiteRT's compiled runtimes; signatures `embed_{length}` share the weights.

    Args:
        student: The student, computing in float32.
        path: File to write.
        sequence_lengths: One signature for each.
        quantize: Whether weights become int8 (dynamic range: one scale a
            table row and a kernel column, activations float32).
    """
    module = ServingModule(student)
    signatures = {signature_name(n): module.trace(1, n) for n in sequence_lengths}
    path.write_bytes(convert(module, signatures, path, quantize=quantize))


def convert(
    module: ServingModule, signatures: Mapping[str, Any], path: Path, *, quantize: bool
) -> bytes:
    """Returns the TFLite file of traced functions, to be written at `path`."""
    # Of the converter's three entrances only this one keeps the weights,
    # shares them between signatures, and keeps the signatures' names. The
    # intermediate model stands beside the output: one disk to fill.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".converted-") as folder:
        with tensorflow_writes():
            tf.saved_model.save(module, folder, signatures=signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(
            folder, signature_keys=list(signatures)
        )
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        if quantize:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        content = converter.convert()
    return share_quantization(content) if quantize else content
