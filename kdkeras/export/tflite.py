"""Writing TFLite files: one set of weights, one signature a length."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tensorflow as tf

from kdkeras.export.flatbuffer import share_quantization
from kdkeras.export.formats import ExportFormat, signature_name
from kdkeras.export.lite_module import lite_module
from kdkeras.export.recipes import RECIPES, apply_recipe
from kdkeras.export.saved_model import tensorflow_writes
from kdkeras.export.serving import ServingModule

if TYPE_CHECKING:
    from kdkeras.students import Student

__all__ = ["convert", "write_tflite"]


def write_tflite(
    student: Student, path: Path, sequence_lengths: Sequence[int], item: ExportFormat
) -> None:
    """Writes a TFLite file of LiteRT's built-in operations alone.

    Shapes are fixed (batch 1), because a dynamic length is rejected by
    LiteRT's compiled runtimes; signatures `embed_{length}` share the weights.

    Args:
        student: The student, computing in float32.
        path: File to write.
        sequence_lengths: One signature for each.
        item: What its weights become; see `kdkeras.export.export_student`.

    Raises:
        InputError: If the student's table cannot be of this format.
        MissingExtraError: If the format needs ai-edge-quantizer, and it is not
            installed.
    """
    module = lite_module(student, item.precision)
    signatures = {signature_name(n): module.trace(1, n) for n in sequence_lengths}
    if item in RECIPES:  # They start from float32.
        content = apply_recipe(convert(module, signatures, path, "float32"), item)
        content = share_quantization(content)
    else:
        content = convert(module, signatures, path, item.precision)
    path.write_bytes(content)


def convert(
    module: ServingModule, signatures: Mapping[str, Any], path: Path, precision: str
) -> bytes:
    """Returns the TFLite file of traced functions.

    Args:
        module: What they were traced from.
        signatures: Concrete functions by name.
        path: Where the file will be written.
        precision: `"float32"`; `"float16"`; or `"int8"`: dynamic range, one
            scale a table row and a kernel column, activations float32.
    """
    # Of the converter's three entrances only this one keeps the weights,
    # shares them between signatures, and keeps the signatures' names. The
    # intermediate model stands beside the output: one disk to fill.
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
