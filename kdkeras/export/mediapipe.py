"""Writes files for the `TextEmbedder` of MediaPipe Tasks, which takes strings."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import flatbuffers
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema

from kdkeras.export.flatbuffer import packed
from kdkeras.export.tflite import convert, lite_module

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary
    from kdkeras.students import Student

__all__ = ["LONGEST_TEXT", "write_mediapipe"]

LONGEST_TEXT = 1 << 16
"""Number of token ids in the input of SentencePiece models, including begin and end."""

_SIGNATURE = "embed"
# Field numbers in MediaPipe's metadata_schema.fbs.
_MODEL = {"name": 0, "subgraph_metadata": 3, "min_parser_version": 7}
_GRAPH = {"inputs": 2, "outputs": 3, "input_process_units": 5}
_BERT_TOKENIZER = 4  # In the union ProcessUnitOptions.
_VOCABULARY_FILE = 5  # In AssociatedFileType.
_BERT_SINCE = "1.1.0"  # First parser version with BERT's tokenizer.
_ALIGNMENT = 64


def write_mediapipe(student: Student, vocabulary: Vocabulary, path: Path, precision: str) -> None:
    """Writes the file that `TextEmbedder` loads, including the tokenizer.

    A WordPiece student becomes a TFLite file with the inputs `ids`, `mask` and
    `segment_ids`, int32 `(1, L)`, that also contains the vocabulary and
    metadata. A SentencePiece student becomes a `.task` file: a zip archive of
    `sentencepiece.model` and a TFLite file with one input. MediaPipe fails for a
    text with more tokens than this input has columns. The input therefore has
    `LONGEST_TEXT` columns, of which the graph uses the first `sequence_length`.

    Args:
        student: The student, computing in float32.
        vocabulary: Its vocabulary.
        path: The file to write; its folder is created.
        precision: `"float32"` or `"int8"`, see `convert`.
    """
    path.parent.mkdir(exist_ok=True)
    if vocabulary.kind == "wordpiece":
        content = _wordpiece_model(student, path, precision)
        files = {"vocab.txt": vocabulary.files["vocab.txt"]}
        path.write_bytes(content + _zipped(files, len(content)))
    else:
        content = _sentencepiece_model(student, path, precision)
        model = "sentencepiece.model"
        path.write_bytes(_zipped({"embedder.tflite": content, model: vocabulary.files[model]}, 0))


def _wordpiece_model(student: Student, path: Path, precision: str) -> bytes:
    module = lite_module(student, precision)

    def embed(ids: tf.Tensor, mask: tf.Tensor, segment_ids: tf.Tensor) -> dict[str, tf.Tensor]:
        del segment_ids  # All zeros; MediaPipe requires the input.
        return module.embed(ids, mask)

    names = ("ids", "mask", "segment_ids")
    specs = [tf.TensorSpec((1, student.sequence_length), tf.int32, name=name) for name in names]
    function = tf.function(embed, autograph=False).get_concrete_function(*specs)
    content = convert(module, {_SIGNATURE: function}, path, precision)
    return _with_metadata(content, names)


def _sentencepiece_model(student: Student, path: Path, precision: str) -> bytes:
    module = lite_module(student, precision)
    length = student.sequence_length

    def embed(ids: tf.Tensor) -> dict[str, tf.Tensor]:
        # MediaPipe puts the model's begin and end ids (-1 if it has none) around
        # the text and appends zeros. Position i is a token if position i + 1 is
        # not zero.
        mask = tf.cast(tf.not_equal(ids[:, 2 : length + 2], 0), tf.int32)
        return module.embed(ids[:, 1 : length + 1] * mask, mask)

    spec = tf.TensorSpec((1, max(length + 2, LONGEST_TEXT)), tf.int32, name="ids")
    function = tf.function(embed, autograph=False).get_concrete_function(spec)
    return convert(module, {_SIGNATURE: function}, path, precision)


def _with_metadata(content: bytes, names: Sequence[str]) -> bytes:
    """Adds the metadata by which MediaPipe identifies inputs and tokenizer."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    graph = model.subgraphs[0]
    # Names follow the order of inputs in the file, which the converter chooses.
    # In another order, MediaPipe would pass the mask as ids without an error.
    signature = model.signatureDefs[0]
    inputs = {item.tensorIndex: item.name.decode() for item in signature.inputs}
    ordered = [inputs[index] for index in graph.inputs]
    if sorted(ordered) != sorted(names):
        raise RuntimeError(f"The converter must keep the inputs {names}. Received: {ordered}.")
    data = schema.BufferT()
    data.data = np.frombuffer(_metadata(ordered), np.uint8)
    entry = schema.MetadataT()
    entry.name, entry.buffer = "TFLITE_METADATA", len(model.buffers)
    model.buffers.append(data)
    model.metadata = [*(model.metadata or []), entry]
    return packed(model, len(content))


def _metadata(inputs: Sequence[str]) -> bytes:
    """Returns a flatbuffer of metadata_schema.fbs: tensor names and BERT's tokenizer."""
    builder = flatbuffers.Builder(1024)

    def text(value: str) -> int:
        return builder.CreateString(value)

    def several(offsets: Sequence[int]) -> int:
        builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            builder.PrependUOffsetTRelative(offset)
        return builder.EndVector()

    def table(offsets: Mapping[int, int], kinds: Mapping[int, int] | None = None) -> int:
        builder.StartObject(10)
        for slot, offset in offsets.items():
            builder.PrependUOffsetTRelativeSlot(slot, offset, 0)
        for slot, kind in (kinds or {}).items():
            builder.PrependUint8Slot(slot, kind, 0)
        return builder.EndObject()

    def tensors(names: Sequence[str]) -> int:
        return several([table({0: text(name)}) for name in names])

    vocabulary = table({0: text("vocab.txt")}, {2: _VOCABULARY_FILE})
    tokenizer = table({0: several([vocabulary])})
    unit = table({1: tokenizer}, {0: _BERT_TOKENIZER})
    graph = table(
        {
            _GRAPH["inputs"]: tensors(inputs),
            _GRAPH["outputs"]: tensors(["embedding"]),
            _GRAPH["input_process_units"]: several([unit]),
        }
    )
    model = table(
        {
            _MODEL["name"]: text("kdkeras student"),
            _MODEL["subgraph_metadata"]: several([graph]),
            _MODEL["min_parser_version"]: text(_BERT_SINCE),
        }
    )
    builder.Finish(model, file_identifier=b"M001")
    return bytes(builder.Output())


def _zipped(files: Mapping[str, bytes], start: int) -> bytes:
    """Returns a zip archive with uncompressed, aligned files.

    MediaPipe maps the files into memory.

    Args:
        files: Contents by name.
        start: Number of bytes before the archive in its file.
    """
    stream = io.BytesIO()
    stream.write(bytes(start))
    with zipfile.ZipFile(stream, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo(name)  # Dated 1980, so that equal files give equal archives.
            header = stream.tell() + 30 + len(name)
            # An extra field of an unknown kind: two bytes kind, two bytes length.
            fill = -(header + 4) % _ALIGNMENT
            info.extra = b"\xff\xff" + fill.to_bytes(2, "little") + bytes(fill)
            archive.writestr(info, content)
    return stream.getvalue()[start:]
