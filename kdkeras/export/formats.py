"""The formats that a student can be exported to, and the names of their files."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

from kdkeras.errors import InputError

__all__ = [
    "DEFAULT_FORMATS",
    "MANIFEST",
    "PARITY",
    "TOKENIZER",
    "ExportFormat",
    "read_formats",
    "signature_name",
]

MANIFEST = "export.json"
"""Describes the exported folder: the contract between the exporter and the runtimes."""
PARITY = "parity.json"
"""The comparison of each artifact with Keras. Written by `verify`."""
TOKENIZER = "tokenizer"
"""The folder with the files of the vocabulary."""


class ExportFormat(StrEnum):
    """A format that `export_student` can write.

    Members are strings: `"tflite_int8"` may be passed instead of
    `ExportFormat.TFLITE_INT8`. `export_student` documents each format.

    Example:
        >>> ExportFormat("tflite_int8").path
        'model.int8.tflite'
    """

    SAVED_MODEL = "saved_model"
    SAVED_MODEL_TEXT = "saved_model_text"
    TFLITE_FLOAT32 = "tflite_float32"
    TFLITE_FLOAT16 = "tflite_float16"
    TFLITE_INT8 = "tflite_int8"
    TFLITE_INT8_WEIGHT_ONLY = "tflite_int8_weight_only"
    TFLITE_INT4 = "tflite_int4"
    MEDIAPIPE = "mediapipe"
    MEDIAPIPE_FLOAT32 = "mediapipe_float32"
    ONNX = "onnx"
    SENTENCE_TRANSFORMERS = "sentence_transformers"

    @property
    def path(self) -> str:
        """Path of the artifact's file or folder, relative to the exported folder."""
        if self.is_tflite:
            return f"model.{self.removeprefix('tflite_')}.tflite"
        return _PATHS.get(self, str(self))

    def path_for(self, kind: str) -> str:
        """Path of the artifact for a kind of vocabulary.

        Args:
            kind: `"sentencepiece"` or `"wordpiece"`. MediaPipe files of
                SentencePiece students end in `.task` instead of `.tflite`.
        """
        if self.is_mediapipe and kind == "sentencepiece":
            return self.path.removesuffix(".tflite") + ".task"
        return self.path

    @property
    def is_tflite(self) -> bool:
        """Whether LiteRT runs the artifact."""
        return self.startswith("tflite")

    @property
    def is_mediapipe(self) -> bool:
        """Whether MediaPipe Tasks runs the artifact."""
        return self.startswith("mediapipe")

    @property
    def extra(self) -> str | None:
        """The extra of kdkeras that installs the runtime; None if kdkeras depends on it."""
        if self.is_mediapipe:
            return "mediapipe"
        return {"onnx": "onnx", "sentence_transformers": "sentence-transformers"}.get(self)

    @property
    def is_exact(self) -> bool:
        """Whether the artifact stores the student's float32 weights unchanged."""
        return self.precision == "float32"

    @property
    def precision(self) -> str:
        """Type of the weights: `"float32"`, `"float16"`, `"int8"` or `"int4"`."""
        if self is ExportFormat.MEDIAPIPE:
            return "int8"
        return next((name for name in ("float16", "int8", "int4") if name in self), "float32")


_PATHS = {
    ExportFormat.MEDIAPIPE: "mediapipe/embedder.tflite",
    ExportFormat.MEDIAPIPE_FLOAT32: "mediapipe/embedder.float32.tflite",
    ExportFormat.ONNX: "model.onnx",
}

DEFAULT_FORMATS = (
    ExportFormat.SAVED_MODEL,
    ExportFormat.SAVED_MODEL_TEXT,
    ExportFormat.TFLITE_FLOAT32,
    ExportFormat.TFLITE_INT8,
)
"""The formats that are written by default. They need no extra."""


def read_formats(formats: str | Iterable[str]) -> tuple[ExportFormat, ...]:
    """Checks the names of formats and removes duplicates.

    Raises:
        InputError: If a name is unknown or there is none.
    """
    names = [formats] if isinstance(formats, str) else list(formats)
    known = [str(member) for member in ExportFormat]
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise InputError(f"`formats` must be some of {known}. Received: {wrong or names}.")
    return tuple(dict.fromkeys(ExportFormat(name) for name in names))


def signature_name(sequence_length: int) -> str:
    """Name of the TFLite signature for a fixed number of tokens."""
    return f"embed_{sequence_length}"
