"""Rebuilds a trainable Keras student from an exported TFLite file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from kdkeras.data import load_vocabulary
from kdkeras.errors import InputError
from kdkeras.export.flatbuffer import unpacked
from kdkeras.export.formats import TOKENIZER, ExportFormat
from kdkeras.export.manifest import check_files, read_manifest
from kdkeras.students import StaticStudent

__all__ = ["rebuild_student"]

# From the most to the least precise file.
_PREFERRED = (
    ExportFormat.TFLITE_FLOAT32,
    ExportFormat.TFLITE_FLOAT16,
    ExportFormat.TFLITE_INT8_WEIGHT_ONLY,
    ExportFormat.TFLITE_INT8,
    ExportFormat.TFLITE_INT4,
)
_OPERATOR = schema.BuiltinOperator
_VALUES = {
    schema.TensorType.FLOAT32: np.float32,
    schema.TensorType.FLOAT16: np.float16,
    schema.TensorType.INT32: np.int32,
    schema.TensorType.INT8: np.int8,
}


def rebuild_student(folder: Path) -> StaticStudent:
    """Creates the student whose embeddings an exported folder computes.

    The weights are those of the most precise TFLite file, dequantized to
    float32. The token weights are multiplied into the table, so the student has
    `token_weights=False`.

    Args:
        folder: Folder that `export_student` wrote.

    Raises:
        InputError: If the exported student is not a `StaticStudent`, the folder
            has no TFLite file, or a file differs from the exported one (SHA-256).
    """
    manifest = read_manifest(folder)
    path = _file_of(manifest, folder)
    check_files(folder, manifest, [path, TOKENIZER])
    vocabulary = load_vocabulary(folder / TOKENIZER)
    config = {**manifest["student"]["config"], "token_weights": False, "dtype": "float32"}
    student = StaticStudent(**config, vocabulary=vocabulary)
    graph = _Graph((folder / path).read_bytes())
    student.token_embedding.assign(graph.table())
    student.projection.assign(*graph.dense())
    return student


def _file_of(manifest: dict[str, Any], folder: Path) -> str:
    """Path of the most precise TFLite file of a static student."""
    kind = manifest["student"]["class"]
    if kind != StaticStudent.__name__:
        raise InputError(
            "Only a StaticStudent can be rebuilt from an exported folder. Received: "
            f"{folder} with a {kind}. Use kdkeras.load(folder) for inference, or pass the "
            "`.keras` file that the student was saved to."
        )
    for item in _PREFERRED:
        if item in manifest["artifacts"]:
            return str(manifest["artifacts"][item]["path"])
    raise InputError(
        "A student is rebuilt from a TFLite file. Received: "
        f"{folder} with {', '.join(manifest['artifacts'])}. Export it with "
        "formats=['tflite_float32'], or pass its `.keras` file."
    )


class _Graph:
    """The first signature of a TFLite file of a static student."""

    def __init__(self, content: bytes) -> None:
        model = unpacked(content)
        codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
        self._tensors, self._buffers = model.subgraphs[0].tensors, model.buffers
        self._operators = [(codes[op.opcodeIndex], op) for op in model.subgraphs[0].operators]

    def table(self) -> np.ndarray:
        """Returns the token vectors, `(vocabulary_size, embedding_dim)` float32."""
        lookups = self._of_kind(_OPERATOR.EMBEDDING_LOOKUP)
        if lookups:
            return self._values(lookups[0].inputs[1])
        # The int8 form of kdkeras: int8 rows, and per row an integer multiple of one step.
        gathers = {self._tensors[op.inputs[0]].type: op for op in self._of_kind(_OPERATOR.GATHER)}
        rows, multiples = gathers[schema.TensorType.INT8], gathers[schema.TensorType.INT32]
        cast = self._reader(_OPERATOR.CAST, multiples.outputs[0])
        scaled = self._reader(_OPERATOR.MUL, cast.outputs[0])
        (step,) = set(scaled.inputs) - set(cast.outputs)
        scales = self._values(multiples.inputs[0]) * self._values(step)
        return self._values(rows.inputs[0]) * scales[:, None]

    def dense(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the kernel `(embedding_dim, output_dim)` and the bias, float32."""
        (layer,) = self._of_kind(_OPERATOR.FULLY_CONNECTED)
        return self._values(layer.inputs[1]).T, self._values(layer.inputs[2])

    def _of_kind(self, kind: int) -> list[Any]:
        return [operator for code, operator in self._operators if code == kind]

    def _reader(self, kind: int, tensor: int) -> Any:
        """The operator of a kind that has the tensor as an input."""
        return next(operator for operator in self._of_kind(kind) if tensor in operator.inputs)

    def _values(self, index: int) -> np.ndarray:
        """Returns a constant as float32, dequantized."""
        for operator in self._of_kind(_OPERATOR.DEQUANTIZE):
            if index in operator.outputs:
                index = operator.inputs[0]
        tensor = self._tensors[index]
        data = np.asarray(self._buffers[tensor.buffer].data, np.uint8)
        if tensor.type == schema.TensorType.INT4:
            nibbles = np.stack([data << 4, data], axis=-1).ravel()  # The low one comes first.
            values = nibbles.view(np.int8) >> 4
        else:
            values = data.view(_VALUES[tensor.type])
        # A scalar has no shape in the file.
        values = values.reshape(() if tensor.shape is None else tensor.shape).astype(np.float32)
        return values * self._scales(tensor, values.shape)

    def _scales(self, tensor: Any, shape: tuple[int, ...]) -> np.ndarray:
        """The scale of each value; 1 in a tensor that is not quantized."""
        quantization = tensor.quantization
        if quantization is None:
            return np.ones((), np.float32)
        if quantization.details is not None:  # One scale per block of a row.
            blocks = quantization.details
            scales = self._values(blocks.scales).reshape(shape[0], -1)
            return np.repeat(scales, blocks.blockSize, axis=1)
        if quantization.scale is None:
            return np.ones((), np.float32)
        axes = np.ones(len(shape), int)
        axes[quantization.quantizedDimension] = -1
        return np.asarray(quantization.scale, np.float32).reshape(axes)
