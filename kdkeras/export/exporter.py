"""From a trained student to the folder that is shipped."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
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
from kdkeras.export.serving import float32_student
from kdkeras.files import atomic_folder

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary
    from kdkeras.students import Student

__all__ = ["DEFAULT_SEQUENCE_LENGTHS", "Artifacts", "export_student"]

DEFAULT_SEQUENCE_LENGTHS = (16, 32, 64, 128)

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Artifacts:
    """What an export wrote.

    Attributes:
        folder: The exported folder.
        formats: The artifacts in it.
        sequence_lengths: Lengths of the TFLite signatures.
        vocabulary_kind: The vocabulary's kind, which MediaPipe's file is called by.
    """

    folder: Path
    formats: tuple[ExportFormat, ...]
    sequence_lengths: tuple[int, ...]
    vocabulary_kind: str

    def path(self, name: str) -> Path:
        """Path of one artifact, e.g. of `"tflite_int8"`."""
        return self.folder / ExportFormat(name).path_for(self.vocabulary_kind)


def export_student(
    student: Student,
    folder: str | os.PathLike[str],
    formats: str | Iterable[str] = DEFAULT_FORMATS,
    sequence_lengths: Iterable[int] | None = None,
    overwrite: bool = False,
    name: str | None = None,
    progress: Progress | None = None,
) -> Artifacts:
    """Writes a student as artifacts that run without Keras.

    The folder holds, besides what `formats` asks for, `tokenizer/` (the
    vocabulary's files) and `export.json` (what the student is, how its input
    is made, checksum and size of every file). It appears when everything in
    it is complete.

    | format | file | input | runs in |
    |---|---|---|---|
    | `saved_model` | `saved_model/` | token ids | TensorFlow |
    | `saved_model_text` | `saved_model_text/` | strings | TensorFlow, tensorflow_text |
    | `tflite_float32` | `model.float32.tflite` | token ids | LiteRT |
    | `tflite_float16` | `model.float16.tflite` | token ids | LiteRT |
    | `tflite_int8`, the one for phones | `model.int8.tflite` | token ids | LiteRT |
    | `tflite_int8_weight_only` | `model.int8_weight_only.tflite` | token ids | LiteRT |
    | `tflite_int4` | `model.int4.tflite` | token ids | LiteRT |
    | `mediapipe` | `mediapipe/embedder.tflite` or `.task`, int8 | strings | MediaPipe Tasks |
    | `mediapipe_float32` | `mediapipe/embedder.float32.*` | strings | MediaPipe Tasks |
    | `onnx` | `model.onnx` | token ids | ONNX Runtime |
    | `sentence_transformers` | `sentence_transformers/` | strings | PyTorch |

    int4 (the token table; dense kernels are int8) and weight-only int8 need the
    extra `kdkeras[quantize]`; what each does to the weights: `apply_recipe`.
    TFLite files have one signature a length, `embed_16` and so on, taking
    `token_ids` and `padding_mask` int32 `(1, length)`, sharing the weights.
    MediaPipe's file is a `.task` for SentencePiece vocabularies. Writing ONNX
    needs the extra `[onnx]`; the other writers need no extra, their runtimes
    do: `[mediapipe]`, `[sentence-transformers]`.

    Args:
        student: A student with a vocabulary. One that trains in half precision
            is exported in float32.
        folder: Folder to create.
        formats: Names out of the table above; by default both SavedModels, float32 and int8.
        sequence_lengths: Tokens of each TFLite signature, at most the
            student's; 16, 32, 64 and 128 as far as the student reads if None.
            The student's own length is always added, so that every artifact
            cuts long text at the same token.
        overwrite: Whether an existing folder is replaced.
        name: Name of the model in `export.json`; the folder's name if None.
        progress: Called with one line at each step.

    Returns:
        What was written.

    Raises:
        InputError: If a format is unknown, the student has no vocabulary or
            one of another size, a length is out of range, the folder exists,
            or the file system refuses.
        MissingExtraError: If a format needs an extra that is not installed.
    """
    chosen = read_formats(formats)
    if set(chosen) & set(RECIPES):
        require_quantizer()
    if ExportFormat.ONNX in chosen:
        require_extra("tf2onnx", ExportFormat.ONNX)
    vocabulary = _vocabulary_of(student)
    lengths = _read_lengths(sequence_lengths, student.sequence_length)
    say = progress or (lambda line: None)
    folder = Path(folder)
    with atomic_folder(folder, overwrite) as temporary:
        exact = float32_student(student)
        for item in chosen:
            path = item.path_for(vocabulary.kind)
            say(f"Writing {path}")
            _write(item, exact, vocabulary, temporary / path, lengths)
        vocabulary.save(temporary / TOKENIZER)
        manifest = describe(
            student, vocabulary, temporary, chosen, lengths, name or folder.resolve().name
        )
        write_json(temporary / MANIFEST, manifest)
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
            "An exported student needs a vocabulary. Received: a student without one. "
            "Create it with vocabulary=...; the tokenizer ships beside the model."
        )
    rows = student.vocabulary_size
    if vocabulary.size != rows:
        raise InputError(
            "The vocabulary must have as many tokens as the student's table has rows. "
            f"Received: {vocabulary.size} tokens, {rows} rows. "
            "Use the vocabulary that the student was trained with."
        )
    return vocabulary


def _read_lengths(wanted: Iterable[int] | None, longest: int) -> tuple[int, ...]:
    if wanted is None:
        wanted = [length for length in DEFAULT_SEQUENCE_LENGTHS if length < longest]
    lengths = [int(length) for length in wanted]
    wrong = [length for length in lengths if not 1 <= length <= longest]
    if wrong:
        raise InputError(
            f"`sequence_lengths` must be between 1 and the student's {longest} tokens. "
            f"Received: {wrong}. Leave them out, or make a student with a longer sequence_length."
        )
    return tuple(sorted({*lengths, longest}))
