"""Makes TFLite files smaller without changing their results."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

__all__ = ["packed", "share_quantization", "unpacked"]

_IDENTIFIER = b"TFL3"
# In bytes. The schema requires it, but the generated packer omits it.
_ALIGNMENT = 16


def share_quantization(content: bytes) -> bytes:
    """Stores equal quantization parameters once instead of once per signature.

    The converter shares the values of a table between signatures but repeats its
    scales and zero points: 12 bytes per row and signature, a twentieth of an
    int8 table of width 256 each time. A flatbuffer may refer to one record from
    several places, so all references are set to the first record.

    Args:
        content: A TFLite file.

    Returns:
        A TFLite file with bit-identical results.
    """
    model = unpacked(content)
    seen: dict[tuple[Any, ...], _PackedOnce] = {}
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            parameters = tensor.quantization
            if parameters is not None and parameters.scale is not None:
                tensor.quantization = seen.setdefault(_key(parameters), _PackedOnce(parameters))
    return packed(model, len(content))


def unpacked(content: bytes) -> Any:
    """Returns the `ModelT` of a TFLite file, including the values of all buffers."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:  # ai-edge-quantizer appends weights after the flatbuffer.
            buffer.data = np.frombuffer(content, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return model


def packed(model: Any, size: int) -> bytes:
    """Serializes a model as a TFLite file.

    Args:
        model: A `ModelT`; its buffers are replaced.
        size: Approximate size of the file in bytes.
    """
    model.buffers = [_AlignedBuffer(buffer) for buffer in model.buffers]
    builder = flatbuffers.Builder(size)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return bytes(builder.Output())


def _key(parameters: Any) -> tuple[Any, ...]:
    arrays = (parameters.scale, parameters.zeroPoint, parameters.min, parameters.max)
    values = tuple(None if array is None else np.asarray(array).tobytes() for array in arrays)
    # Records with details (blockwise scales) are not compared and never shared.
    details = None if parameters.details is None else id(parameters)
    return (*values, parameters.quantizedDimension, details)


class _PackedOnce:
    """A record that is written once; later calls return its first offset."""

    def __init__(self, record: Any) -> None:
        self._record = record
        self._offset: int | None = None

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802
        if self._offset is None:
            self._offset = self._record.Pack(builder)
        return self._offset


class _AlignedBuffer:
    """A buffer of weights that is aligned for vector instructions."""

    def __init__(self, buffer: Any) -> None:
        self._buffer = buffer

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802
        if self._buffer.data is None:
            return self._buffer.Pack(builder)
        values = np.asarray(self._buffer.data, np.uint8).tobytes()
        builder.StartVector(1, len(values), _ALIGNMENT)
        builder.head = builder.Head() - len(values)
        builder.Bytes[builder.head : builder.head + len(values)] = values
        builder.vectorNumElems = len(values)
        offset = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, offset)
        return schema.BufferEnd(builder)
