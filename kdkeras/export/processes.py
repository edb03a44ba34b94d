"""Starting the worker and reading what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import kdkeras
from kdkeras.errors import GateError
from kdkeras.export.formats import ExportFormat

__all__ = ["WorkerResult", "run_worker"]


@dataclass(frozen=True, kw_only=True)
class WorkerResult:
    """What one artifact did in a fresh process.

    Attributes:
        embeddings: `(N, output_dim)` float32.
        load_seconds: From the first import to the first embedding.
        latency_ms: Median milliseconds from one string to its vector, one
            thread, after warm-up.
        peak_memory_mb: Peak resident memory in megabytes (10^6 bytes).
        imported: Which of tensorflow and tensorflow_text it imported.
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
        folder: What `export` wrote.
        artifact: Which of it.
        texts: Sentences.
        python: The Python that runs it: NumPy and the artifact's own runtime
            are all that it needs.

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
                "Export it again; the versions it needs are in export.json."
            )
        result = json.loads((Path(temporary) / "result.json").read_text(encoding="utf-8"))
        embeddings = np.load(Path(temporary) / "embeddings.npy", allow_pickle=False)
    return WorkerResult(embeddings=embeddings, **result)


def _environment() -> dict[str, str]:
    # This very kdkeras, installed or not, and no GPU: the artifacts are for CPUs.
    package = str(Path(kdkeras.__file__).parents[1])
    paths = [package, os.environ.get("PYTHONPATH", "")]
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "",
        "HF_HUB_OFFLINE": "1",
    }
