"""Packages that not everybody needs."""

from __future__ import annotations

from importlib.util import find_spec

from kdkeras.errors import InputError
from kdkeras.export.formats import ExportFormat

__all__ = ["require", "require_runtime"]

_RUNTIMES = {
    "mediapipe": "mediapipe",
    "onnx": "onnxruntime",
    "sentence-transformers": "sentence_transformers",
}


def require(extra: str, package: str, what: str) -> None:
    """Checks that a package of an extra is there, without importing it.

    Raises:
        InputError: If it is not, naming the extra.
    """
    if find_spec(package) is None:
        raise InputError(
            f"{what} needs the package {package}. Received: a Python without it. "
            f'Install it: pip install "kdkeras[{extra}]".'
        )


def require_runtime(artefact: ExportFormat, path: str) -> None:
    """Checks that an artefact can be run here.

    Raises:
        InputError: If its runtime is missing.
    """
    if artefact.extra is not None:
        require(artefact.extra, _RUNTIMES[artefact.extra], f"Verifying {path}")
