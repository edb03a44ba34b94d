"""Runs an artifact in a fresh process and reads the measurements."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

import kdkeras
from kdkeras.errors import GateError, MissingExtraError
from kdkeras.export.formats import ExportFormat

__all__ = ["WorkerResult", "require_runtime", "run_worker"]

# Extra of kdkeras to the package that runs the artifact.
_RUNTIMES = {
    "mediapipe": "mediapipe",
    "onnx": "onnxruntime",
    "sentence-transformers": "sentence_transformers",
}


def require_runtime(artifact: ExportFormat, path: str) -> None:
    """Checks that the runtime of an artifact is installed, without importing it.

    Args:
        artifact: The artifact's format.
        path: The artifact's path, for the error message.

    Raises:
        MissingExtraError: If the runtime is not installed.
    """
    extra = artifact.extra
    if extra is not None and find_spec(_RUNTIMES[extra]) is None:
        raise MissingExtraError(
            f"Verifying {path} needs the package `{_RUNTIMES[extra]}`. Received: a Python "
            f'without it. Install it with: pip install "kdkeras[{extra}]".'
        )


@dataclass(frozen=True, kw_only=True)
class WorkerResult:
    """Embeddings and costs of one artifact in a fresh process.

    Attributes:
        embeddings: `(N, output_dim)` float32.
        load_seconds: Seconds from the first import to the first embedding.
        latency_ms: Median milliseconds from one string to its embedding, with
            one thread and after warm-up.
        peak_memory_mb: Peak resident memory in megabytes (10^6 bytes).
        imported: Those of tensorflow and tensorflow_text that were imported.
    """

    embeddings: np.ndarray
    load_seconds: float
    latency_ms: float
    peak_memory_mb: float
    imported: list[str]


def run_worker(
    folder: Path, artifact: ExportFormat, texts: Sequence[str], python: str = sys.executable
) -> WorkerResult:
    """Embeds texts with one artifact in a fresh process.

    Args:
        folder: The exported folder.
        artifact: The format of the artifact.
        texts: Sentences to embed.
        python: The Python interpreter to use. It needs only NumPy and the
            artifact's runtime.

    Raises:
        GateError: If the artifact cannot be loaded or run.
    """
    with tempfile.TemporaryDirectory() as temporary:
        texts_file = Path(temporary) / "texts.json"
        texts_file.write_text(json.dumps(list(texts)), encoding="utf-8")
        command = [python, "-m", "kdkeras.export.worker"]
        command += [str(folder.resolve()), str(artifact), str(texts_file), temporary]
        process = subprocess.run(
            command, env=_environment(), capture_output=True, text=True, check=False
        )
        if process.returncode != 0:
            lines = process.stderr.strip().splitlines() or [f"status {process.returncode}"]
            raise GateError(
                f"{artifact.path} must run in a fresh process. Received: {lines[-1]}. "
                "Export the student again; export.json lists the required versions."
            )
        result = json.loads((Path(temporary) / "result.json").read_text(encoding="utf-8"))
        embeddings = np.load(Path(temporary) / "embeddings.npy", allow_pickle=False)
    return WorkerResult(embeddings=embeddings, **result)


def _environment() -> dict[str, str]:
    # The process uses this copy of kdkeras, installed or not, and no GPU.
    package = str(Path(kdkeras.__file__).parents[1])
    paths = [package, os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }
