"""Writes a trained student as a folder of artifacts."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from kdkeras.errors import InputError, require_extra
from kdkeras.export.formats import (
    DEFAULT_FORMATS,
    MANIFEST,
    TOKENIZER,
    ExportFormat,
    read_formats,
)
from kdkeras.export.manifest import describe, write_json
from kdkeras.export.recipes import RECIPES, require_quantizer
from kdkeras.export.saved_model import float32_student
from kdkeras.files import atomic_folder
from kdkeras.progress import Progress, no_progress

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary
    from kdkeras.students import Student

__all__ = ["DEFAULT_SEQUENCE_LENGTHS", "Artifacts", "export_student"]

DEFAULT_SEQUENCE_LENGTHS = (16, 32, 64, 128)


@dataclass(frozen=True, kw_only=True)
class Artifacts:
    """The result of `export_student`.

    Attributes:
        folder: The exported folder.
        formats: The formats of the artifacts in the folder.
        sequence_lengths: Number of tokens of each TFLite signature, ascending.
        vocabulary_kind: `"sentencepiece"` or `"wordpiece"`.
    """

    folder: Path
    formats: tuple[ExportFormat, ...]
    sequence_lengths: tuple[int, ...]
    vocabulary_kind: str

    def path(self, name: str) -> Path:
        """Returns the path of one artifact.

        Args:
            name: Name of its format, e.g. `"tflite_int8"`.
        """
        return self.folder / ExportFormat(name).path_for(self.vocabulary_kind)


def export_student(
    student: Student,
    folder: str | os.PathLike[str],
    formats: str | Iterable[str] = DEFAULT_FORMATS,
    sequence_lengths: Iterable[int] | None = None,
    overwrite: bool = False,
    name: str | None = None,
    progress: Progress = no_progress,
) -> Artifacts:
    """Exports a student to formats that run without Keras.

    Besides the artifacts, the folder contains `tokenizer/` (the files of the
    vocabulary) and `export.json` (a description of the student and its input,
    with size and SHA-256 checksum of every file). The folder is written
    atomically: it appears when all of its files are complete.

    | format | file | input | runs in |
    |---|---|---|---|
    | `saved_model` | `saved_model/` | token ids | TensorFlow |
    | `saved_model_text` | `saved_model_text/` | strings | TensorFlow, tensorflow_text |
    | `tflite_float32` | `model.float32.tflite` | token ids | LiteRT |
    | `tflite_float16` | `model.float16.tflite` | token ids | LiteRT |
    | `tflite_int8`, recommended for phones | `model.int8.tflite` | token ids | LiteRT |
    | `tflite_int8_weight_only` | `model.int8_weight_only.tflite` | token ids | LiteRT |
    | `tflite_int4` | `model.int4.tflite` | token ids | LiteRT |
    | `mediapipe` | `mediapipe/embedder.tflite` or `.task`, int8 | strings | MediaPipe Tasks |
    | `mediapipe_float32` | `mediapipe/embedder.float32.*` | strings | MediaPipe Tasks |
    | `onnx` | `model.onnx` | token ids | ONNX Runtime |
    | `sentence_transformers` | `sentence_transformers/` | strings | PyTorch |

    Every TFLite file has one signature per sequence length, named `embed_16`,
    `embed_32`, ..., which all share one copy of the weights. Their inputs are
    `token_ids` and `padding_mask`, int32 `(1, length)`, and their output is
    `embedding`, float32 `(1, output_dim)`. `tflite_int4` stores the token table
    in int4 and the dense kernels in int8. MediaPipe files of students with a
    SentencePiece vocabulary are `.task` files.

    Writing `tflite_int4` and `tflite_int8_weight_only` needs the extra
    `kdkeras[quantize]`; writing `onnx` needs `kdkeras[onnx]`. Running the
    artifacts of the last four formats needs `kdkeras[mediapipe]`,
    `kdkeras[onnx]` or `kdkeras[sentence-transformers]`.

    Args:
        student: A student with a vocabulary. A student that computes in half
            precision or with fake quantization is exported in float32.
        folder: The folder to create.
        formats: One name or several names from the table above. Defaults to
            both SavedModels, `tflite_float32` and `tflite_int8`.
        sequence_lengths: Number of tokens of each TFLite signature, between 1
            and the student's `sequence_length`. Defaults to those of 16, 32, 64
            and 128 that are shorter than the student's. The student's own
            length is always added, so that all artifacts truncate text at the
            same token.
        overwrite: Whether to replace an existing folder. Defaults to False.
        name: Name of the model in `export.json`. Defaults to the folder's name.
        progress: A function that is called as `progress(task, done, total)`,
            counting artifacts. Defaults to no reporting.

    Returns:
        The folder and what it contains.

    Raises:
        InputError: If a format is unknown, the student has no vocabulary or one
            of another size, a sequence length is out of range, the folder
            exists, or the files cannot be written.
        MissingExtraError: If writing a format needs an extra that is not
            installed.

    Example:
        >>> artifacts = export_student(student, "out", "tflite_int8")  # doctest: +SKIP
        >>> LiteStudent(artifacts.folder).encode(["Guten Morgen."])  # doctest: +SKIP
    """
    chosen = read_formats(formats)
    if set(chosen) & set(RECIPES):
        require_quantizer()
    if ExportFormat.ONNX in chosen:
        require_extra("tf2onnx", ExportFormat.ONNX)
    vocabulary = _vocabulary_of(student)
    lengths = _read_lengths(sequence_lengths, student.sequence_length)
    folder = Path(folder)
    with atomic_folder(folder, overwrite) as temporary:
        exact = float32_student(student)
        for done, item in enumerate(chosen):
            path = item.path_for(vocabulary.kind)
            progress(f"Exporting, {path}", done, len(chosen))
            _write(item, exact, vocabulary, temporary / path, lengths)
        vocabulary.save(temporary / TOKENIZER)
        manifest = describe(
            student, vocabulary, temporary, chosen, lengths, name or folder.resolve().name
        )
        write_json(temporary / MANIFEST, manifest)
    progress("Exporting", len(chosen), len(chosen))
    return Artifacts(
        folder=folder,
        formats=chosen,
        sequence_lengths=lengths,
        vocabulary_kind=vocabulary.kind,
    )


def _write(
    item: ExportFormat,
    student: Student,
    vocabulary: Vocabulary,
    path: Path,
    lengths: tuple[int, ...],
) -> None:
    if item is ExportFormat.SAVED_MODEL:
        from kdkeras.export.saved_model import write_saved_model

        write_saved_model(student, path)
    elif item is ExportFormat.SAVED_MODEL_TEXT:
        from kdkeras.export.saved_model import write_text_saved_model

        write_text_saved_model(student, vocabulary, path)
    elif item.is_mediapipe:
        from kdkeras.export.mediapipe import write_mediapipe

        write_mediapipe(student, vocabulary, path, item.precision)
    elif item is ExportFormat.ONNX:
        from kdkeras.export.onnx import write_onnx

        write_onnx(student, path)
    elif item is ExportFormat.SENTENCE_TRANSFORMERS:
        from kdkeras.export.sentence_transformers import write_sentence_transformers

        write_sentence_transformers(student, vocabulary, path)
    else:
        from kdkeras.export.tflite import write_tflite

        write_tflite(student, path, lengths, item)


def _vocabulary_of(student: Student) -> Vocabulary:
    vocabulary = student.vocabulary
    if vocabulary is None:
        raise InputError(
            "An exported student must have a vocabulary. Received: a student without one. "
            "Create the student with vocabulary=...; its tokenizer is exported with the model."
        )
    rows = student.vocabulary_size
    if vocabulary.size != rows:
        raise InputError(
            "The vocabulary must have one token per row of the student's token table. "
            f"Received: {vocabulary.size} tokens, {rows} rows. "
            "Use the vocabulary that the student was trained with."
        )
    return vocabulary


def _read_lengths(requested: Iterable[int] | None, longest: int) -> tuple[int, ...]:
    if requested is None:
        requested = [length for length in DEFAULT_SEQUENCE_LENGTHS if length < longest]
    lengths = [int(length) for length in requested]
    wrong = [length for length in lengths if not 1 <= length <= longest]
    if wrong:
        raise InputError(
            f"`sequence_lengths` must be between 1 and the student's {longest} tokens. "
            f"Received: {wrong}. Omit them, or create a student with a larger sequence_length."
        )
    return tuple(sorted({*lengths, longest}))
