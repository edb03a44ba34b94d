"""Writes ONNX files, for servers and browsers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from kdkeras.export.saved_model import ServingModule

if TYPE_CHECKING:
    from kdkeras.students import Student

__all__ = ["write_onnx"]

_OPSET = 17


def write_onnx(student: Student, path: Path) -> None:
    """Writes an ONNX file that uses only standard operations.

    Its inputs are `token_ids` and `padding_mask`, int32 `(N, L)` with any `N`
    and any `L` from 1 to the student's `sequence_length`. Its output is
    `embedding`, float32 `(N, output_dim)`.

    Args:
        student: The student, computing in float32.
        path: The file to write.
    """
    import tf2onnx

    module = ServingModule(student)
    specs = [tf.TensorSpec((None, None), tf.int32, name=n) for n in ("token_ids", "padding_mask")]
    model, _ = tf2onnx.convert.from_function(
        tf.function(module.embed, autograph=False),
        input_signature=specs,
        opset=_OPSET,
        custom_op_handlers={"Erfc": (_write_erfc, [])},
    )
    path.write_bytes(model.SerializeToString())


def _write_erfc(context: Any, node: Any, name: str, arguments: Any) -> None:
    """Writes Erfc, which TensorFlow's GELU uses and ONNX lacks, as `1 - erf(x)`."""
    del name, arguments
    graph, output = context, node.output[0]
    one = graph.make_const(f"{node.name}_one", np.array(1.0, np.float32)).output[0]
    shapes, dtypes = [graph.get_shape(output)], [graph.get_dtype(output)]
    source = node.input[0]
    graph.remove_node(node.name)
    erf = graph.make_node("Erf", [source], shapes=shapes, dtypes=dtypes)
    graph.make_node(
        "Sub", [one, erf.output[0]], outputs=[output], shapes=shapes, dtypes=dtypes, name=node.name
    )
