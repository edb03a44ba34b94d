"""Runtimes that not everybody needs."""

from __future__ import annotations

from importlib.util import find_spec

from kdkeras.errors import MissingExtraError
from kdkeras.export.formats import ExportFormat

__all__ = ["require_runtime"]

_RUNTIMES = {
    "mediapipe": "mediapipe",
    "onnx": "onnxruntime",
    "sentence-transformers": "sentence_transformers",
}


def require_runtime(artifact: ExportFormat, path: str) -> None:
    """Checks that an artifact can be run here, without importing its runtime.

    Raises:
        MissingExtraError: If its runtime is missing.
    """
    extra = artifact.extra
    if extra is not None and find_spec(_RUNTIMES[extra]) is None:
        raise MissingExtraError(
            f"Verifying {path} needs the package `{_RUNTIMES[extra]}`. Received: a Python "
            f'without it. Install it with: pip install "kdkeras[{extra}]".'
        )
