"""What a student can be exported to, and what the files are called."""

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
"""What the folder holds: the contract between exporter and runtimes."""
PARITY = "parity.json"
"""How each artifact compares with Keras; absent until it was verified."""
TOKENIZER = "tokenizer"
"""Folder of the vocabulary's files."""


class ExportFormat(StrEnum):
    """An artifact that `export` can write."""

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
        """Name of the artifact's file or folder."""
        if self.is_tflite:
            return f"model.{self.removeprefix('tflite_')}.tflite"
        return _PATHS.get(self, str(self))

    def path_for(self, kind: str) -> str:
        """Name of the artifact of a student whose vocabulary is of a kind."""
        if self.is_mediapipe and kind == "sentencepiece":
            return self.path.removesuffix(".tflite") + ".task"
        return self.path

    @property
    def is_tflite(self) -> bool:
        """Whether LiteRT runs it."""
        return self.startswith("tflite")

    @property
    def is_mediapipe(self) -> bool:
        """Whether MediaPipe Tasks runs it."""
        return self.startswith("mediapipe")

    @property
    def extra(self) -> str | None:
        """The extra of kdkeras with the runtime, if that is not a part of kdkeras' own."""
        if self.is_mediapipe:
            return "mediapipe"
        return {"onnx": "onnx", "sentence_transformers": "sentence-transformers"}.get(self)

    @property
    def is_exact(self) -> bool:
        """Whether it holds the student's own float32 weights."""
        return self.precision == "float32"

    @property
    def precision(self) -> str:
        """Type of its weights: `float32`, `float16`, `int8` or `int4`; there is a gate for each."""
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
"""What is written unless asked otherwise: needs no extra, passes its gates nearly always."""


def read_formats(formats: str | Iterable[str]) -> tuple[ExportFormat, ...]:
    """Checks names of formats; repeated ones count once.

    Raises:
        InputError: If one is unknown or none is given.
    """
    names = [formats] if isinstance(formats, str) else list(formats)
    known = [str(member) for member in ExportFormat]
    wrong = [name for name in names if name not in known]
    if wrong or not names:
        raise InputError(f"`formats` must be some of {known}. Received: {wrong or names}.")
    return tuple(dict.fromkeys(ExportFormat(name) for name in names))


def signature_name(sequence_length: int) -> str:
    """Name of the TFLite signature that reads sentences of a fixed length."""
    return f"embed_{sequence_length}"
