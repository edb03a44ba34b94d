"""Runs exported students in LiteRT, without TensorFlow."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdkeras.errors import InputError
from kdkeras.export.formats import MANIFEST, TOKENIZER, ExportFormat
from kdkeras.export.manifest import check_files, read_manifest
from kdkeras.export.tokenizer import load_tokenizer, padded

__all__ = ["LiteStudent", "find_exported", "load_lite_student"]


class LiteStudent:
    """Embeds sentences with an exported TFLite file.

    It needs `ai-edge-litert`, NumPy, and `tokenizers` (WordPiece) or
    `sentencepiece`. TensorFlow is not imported. Sentences are embedded one at a
    time, each with the shortest signature that holds its tokens.

    Args:
        folder: A folder that `export_student` wrote.
        artifact: Name of a TFLite format, e.g. `"tflite_int4"`. Defaults to
            `"tflite_int8"`, or to the smallest TFLite file if the folder does
            not contain that format.
        num_threads: Number of threads of the interpreter. Defaults to 1.

    Attributes:
        folder: The exported folder.
        manifest: The contents of its `export.json`.
        artifact: The `ExportFormat` in use.
        output_dim: Width of the embedding.
        normalize: Whether embeddings have length 1.
        sequence_length: Maximum number of tokens; longer text is truncated.

    Raises:
        InputError: If the folder is not an exported one, does not contain the
            artifact, or the checksum of a file differs.

    Example:
        >>> student = LiteStudent("savedmodels/static-multilingual-28")  # doctest: +SKIP
        >>> student.encode(["Guten Morgen.", "Good morning."]).shape  # doctest: +SKIP
        (2, 384)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        artifact: str | None = None,
        num_threads: int = 1,
    ) -> None:
        from ai_edge_litert.interpreter import Interpreter

        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.artifact = _choose(self.manifest, artifact, self.folder)
        check_files(self.folder, self.manifest, [self.artifact.path, TOKENIZER])
        self.output_dim: int = self.manifest["embedding_dim"]
        self.normalize: bool = self.manifest["normalized"]
        self.sequence_length: int = self.manifest["sequence_length"]
        vocabulary = self.manifest["vocabulary"]
        self._pad_id: int = vocabulary["pad_id"]
        self._tokenize = load_tokenizer(
            self.folder / TOKENIZER, vocabulary["kind"], self.sequence_length
        )
        self._interpreter = Interpreter(
            str(self.folder / self.artifact.path), num_threads=num_threads
        )
        self._lengths = {length: name for name, length in self.manifest["signatures"].items()}
        self._runners: dict[int, Any] = {}

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Embeds sentences.

        Args:
            texts: A list of `N` strings.

        Returns:
            The embeddings, `(N, output_dim)` float32.

        Raises:
            InputError: If `texts` is a single string.
        """
        if isinstance(texts, str):
            raise InputError(
                f"`texts` must be a list of strings. Received: {texts!r}. Write [text]."
            )
        vectors = np.zeros((len(texts), self.output_dim), np.float32)
        for row, ids in enumerate(self._tokenize(texts)):
            vectors[row] = self._embed(ids)
        return vectors

    def _embed(self, ids: list[int]) -> np.ndarray:
        length = min(length for length in self._lengths if length >= len(ids))
        if length not in self._runners:
            self._runners[length] = self._interpreter.get_signature_runner(self._lengths[length])
        output = self._runners[length](**padded([ids], self._pad_id, length))
        return output["embedding"][0]


def _choose(manifest: dict[str, Any], artifact: str | None, folder: Path) -> ExportFormat:
    present = [name for name in manifest["artifacts"] if ExportFormat(name).is_tflite]
    if not present or artifact not in (None, *present):
        raise InputError(
            f"`artifact` must be a TFLite format in the folder, which has {present}. "
            f"Received: artifact={artifact!r} in {folder}. Export with formats=['tflite_int8']."
        )
    if artifact is None and ExportFormat.TFLITE_INT8 in present:
        artifact = ExportFormat.TFLITE_INT8
    return ExportFormat(artifact or min(present, key=lambda n: manifest["artifacts"][n]["bytes"]))


def load_lite_student(name_or_path: str | os.PathLike[str]) -> LiteStudent:
    """Loads an exported folder, or a released student by name.

    Args:
        name_or_path: See `find_exported`.

    Raises:
        InputError: If there is no such folder, or the checksum of a file differs.
    """
    return LiteStudent(find_exported(name_or_path))


def find_exported(name_or_path: str | os.PathLike[str]) -> Path:
    """Finds an exported folder.

    Args:
        name_or_path: A folder, or the name of a folder in `savedmodels/`. The
            working directory is searched first, then the checkout that kdkeras
            runs from.

    Raises:
        InputError: If there is no such folder.
    """
    checkout = Path(__file__).parents[2]
    places = [Path(name_or_path)]
    if places[0].name == str(name_or_path):  # A bare name, not a path.
        places += [root / "savedmodels" / name_or_path for root in (Path.cwd(), checkout)]
    for place in places:
        if (place / MANIFEST).is_file():
            return place
    raise InputError(
        "The model must be a `.keras` file, an exported folder, or a released student: one of "
        f"{_released(checkout)}. Received: {name_or_path}. "
        f"Looked for {MANIFEST} in {', '.join(map(str, places))}. Correct the path or the name."
    )


def _released(checkout: Path) -> list[str]:
    return sorted(path.parent.name for path in (checkout / "savedmodels").glob(f"*/{MANIFEST}"))
