"""`export.json`: the description of an exported folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdkeras
from kdkeras.errors import InputError
from kdkeras.export.formats import MANIFEST, ExportFormat, signature_name

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary
    from kdkeras.students import Student

__all__ = ["check_files", "describe", "file_records", "read_manifest", "write_json"]

FORMAT_VERSION = 1

# The oldest versions of the runtimes that the artifacts were tested with.
_MINIMUM_VERSIONS = {
    "saved_model": {"tensorflow": "2.20"},
    "saved_model_text": {"tensorflow": "2.20", "tensorflow-text": "2.20"},
    "tflite": {"ai-edge-litert": "2.1"},
    "mediapipe": {"mediapipe": "1.2.3"},
    "onnx": {"onnxruntime": "1.32"},
    "sentence_transformers": {"sentence-transformers": "6.2"},
}


def describe(
    student: Student,
    vocabulary: Vocabulary,
    folder: Path,
    formats: Sequence[ExportFormat],
    sequence_lengths: Sequence[int],
    name: str,
) -> dict[str, Any]:
    """Returns the contents of `export.json`.

    Args:
        student: The exported student.
        vocabulary: Its vocabulary.
        folder: The folder with the written artifacts.
        formats: The formats of the artifacts.
        sequence_lengths: Number of tokens of each TFLite signature.
        name: Name of the model.
    """
    files = file_records(folder)
    return {
        "format_version": FORMAT_VERSION,
        "name": name,
        "kdkeras_version": kdkeras.__version__,
        "made_with": {package: version(package) for package in ("tensorflow", "keras")},
        "student": {
            "class": type(student).__name__,
            "config": student.get_config(),
            "num_parameters": int(student.count_params()),
        },
        "embedding_dim": student.output_dim,
        "normalized": student.normalize,
        "sequence_length": student.sequence_length,
        "signatures": {signature_name(length): length for length in sequence_lengths},
        "vocabulary": {
            "kind": str(vocabulary.kind),
            "size": vocabulary.size,
            "fingerprint": vocabulary.fingerprint,
            "pad_id": int(vocabulary.pad_id),
            "unknown_id": int(vocabulary.unknown_id),
        },
        "artifacts": {
            str(item): {
                "path": item.path_for(vocabulary.kind),
                "bytes": _bytes_under(files, item.path_for(vocabulary.kind)),
                "needs": _minimum_versions(item),
            }
            for item in formats
        },
        "files": files,
    }


def _minimum_versions(item: ExportFormat) -> dict[str, str]:
    if item.is_mediapipe:
        return _MINIMUM_VERSIONS["mediapipe"]
    return _MINIMUM_VERSIONS["tflite" if item.is_tflite else item]


def file_records(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns size and SHA-256 of every file in a folder, by relative path."""
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": _sha256(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bytes_under(files: dict[str, dict[str, Any]], path: str) -> int:
    return sum(
        record["bytes"]
        for name, record in files.items()
        if name == path or name.startswith(f"{path}/")
    )


def write_json(path: Path, content: Any) -> None:
    """Writes indented JSON; non-ASCII characters are not escaped."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads `export.json`.

    Raises:
        InputError: If the file is missing, damaged, or has another format version.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"An exported student must be a folder with a readable {MANIFEST}. "
            f"Received: {folder} ({error}). Pass a folder that `export_student` wrote."
        ) from error
    if manifest.get("format_version") != FORMAT_VERSION:
        raise InputError(
            f"{MANIFEST} must have format_version {FORMAT_VERSION}. "
            f"Received: {manifest.get('format_version')}. Export the student again."
        )
    return manifest


def check_files(folder: Path, manifest: dict[str, Any], under: Sequence[str]) -> None:
    """Compares files with the checksums in `export.json`.

    Args:
        folder: The exported folder.
        manifest: The contents of its `export.json`.
        under: Names of the files and folders to check.

    Raises:
        InputError: If a file is missing or its checksum differs.
    """
    for name, record in manifest["files"].items():
        if name not in under and name.split("/")[0] not in under:
            continue
        path = folder / name
        found = _sha256(path) if path.is_file() else "no file"
        if found != record["sha256"]:
            raise InputError(
                f"{name} must be the file that was exported. Received: sha256 {found[:16]} "
                f"instead of {record['sha256'][:16]} in {folder}. Copy the folder or export the "
                "student again."
            )
