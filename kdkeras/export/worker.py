"""Runs one artifact in a process of its own, as an application does.

`python -m kdkeras.export.worker FOLDER ARTIFACT TEXTS.json OUTPUT` embeds the
texts and writes `OUTPUT/embeddings.npy` and `OUTPUT/result.json`. The process
of a TFLite file does not import TensorFlow, and the process of `saved_model/`
does not import tensorflow_text.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from kdkeras.export.formats import TOKENIZER, ExportFormat
from kdkeras.export.manifest import read_manifest
from kdkeras.export.tokenizer import load_tokenizer, padded
from kdkeras.strings import to_bytes

Encode = Callable[[Sequence[str]], np.ndarray]

_BATCH = 64
_WARM_UP = 10
_TIMED = 100
# MediaPipe's objects must be closed before the interpreter shuts down.
_OPEN = ExitStack()


def main(arguments: Sequence[str]) -> None:
    """Embeds texts with one artifact and measures time and memory."""
    folder, name, texts_file, output = Path(arguments[0]), *arguments[1:]
    artifact = ExportFormat(name)
    texts = json.loads(Path(texts_file).read_text(encoding="utf-8"))
    started = time.perf_counter()
    encode = _ENCODERS.get(artifact, _lite_encoder)(folder, artifact)
    encode(texts[:1])
    load_seconds = time.perf_counter() - started
    batches = [encode(texts[i : i + _BATCH]) for i in range(0, len(texts), _BATCH)]
    result = {
        "load_seconds": load_seconds,
        "latency_ms": _latency_ms(encode, texts),
        "peak_memory_mb": _peak_memory() / 1e6,
        "imported": [m for m in ("tensorflow", "tensorflow_text") if sys.modules.get(m)],
    }
    np.save(Path(output) / "embeddings.npy", np.concatenate(batches))
    (Path(output) / "result.json").write_text(json.dumps(result), encoding="utf-8")


def _latency_ms(encode: Encode, texts: Sequence[str]) -> float:
    """Returns the median milliseconds from one string to its embedding."""
    # The list is ordered by language: the sample is spread over all of it.
    sample = [texts[int(i)] for i in np.linspace(0, len(texts) - 1, _TIMED)]
    for text in sample[:_WARM_UP]:
        encode([text])
    seconds = []
    for text in sample:
        started = time.perf_counter()
        encode([text])
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e3


def _peak_memory() -> int:
    """Returns the maximum resident memory of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():
        # On Linux, `getrusage` would include memory of the parent process, which
        # the child shares between fork and exec.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _tensorflow() -> Any:
    import tensorflow as tf

    # One thread, as for the other artifacts.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def _tokenizer(folder: Path) -> Callable[[Sequence[str]], dict[str, np.ndarray]]:
    """Returns a function from texts to `token_ids` and `padding_mask`.

    Both have the length of the longest text.
    """
    manifest = read_manifest(folder)
    vocabulary = manifest["vocabulary"]
    tokenize = load_tokenizer(folder / TOKENIZER, vocabulary["kind"], manifest["sequence_length"])

    def inputs(texts: Sequence[str]) -> dict[str, np.ndarray]:
        rows = tokenize(texts)
        # At least one column: not every runtime defines attention over zero tokens.
        return padded(rows, vocabulary["pad_id"], max(1, *map(len, rows)))

    return inputs


def _ids_encoder(folder: Path, artifact: ExportFormat) -> Encode:
    tf = _tensorflow()
    model = tf.saved_model.load(str(folder / artifact.path))
    signature = model.signatures["serving_default"]
    tokenize = _tokenizer(folder)

    def encode(texts: Sequence[str]) -> np.ndarray:
        inputs = {name: tf.constant(values) for name, values in tokenize(texts).items()}
        # The reference to `model` keeps the variables of its signature alive.
        return model and signature(**inputs)["embedding"].numpy()

    return encode


def _text_encoder(folder: Path, artifact: ExportFormat) -> Encode:
    tf = _tensorflow()
    import tensorflow_text  # noqa: F401  (registers the tokenizer's operations)

    model = tf.saved_model.load(str(folder / artifact.path))
    signature = model.signatures["serving_default"]

    def encode(texts: Sequence[str]) -> np.ndarray:
        given = [to_bytes(text) for text in texts]  # The graph itself repairs invalid text.
        return model and signature(texts=tf.constant(given))["embedding"].numpy()

    return encode


def _lite_encoder(folder: Path, artifact: ExportFormat) -> Encode:
    from kdkeras.export.lite import LiteStudent

    return LiteStudent(folder, artifact, num_threads=1).encode


def _mediapipe_encoder(folder: Path, artifact: ExportFormat) -> Encode:
    # MediaPipe imports TensorFlow, if it is installed, to open files.
    sys.modules["tensorflow"] = None  # type: ignore[assignment]
    from mediapipe.tasks.python.text.text_embedder import TextEmbedder

    path = read_manifest(folder)["artifacts"][artifact]["path"]
    embedder = _OPEN.enter_context(TextEmbedder.create_from_model_path(str(folder / path)))
    return lambda texts: np.array(
        [embedder.embed(text).embeddings[0].embedding for text in texts], np.float32
    )


def _onnx_encoder(folder: Path, artifact: ExportFormat) -> Encode:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        str(folder / artifact.path), options, providers=["CPUExecutionProvider"]
    )
    tokenize = _tokenizer(folder)
    return lambda texts: session.run(["embedding"], tokenize(texts))[0]


def _sentence_transformers_encoder(folder: Path, artifact: ExportFormat) -> Encode:
    import torch
    from sentence_transformers import SentenceTransformer

    torch.set_num_threads(1)
    model = SentenceTransformer(str(folder / artifact.path), device="cpu")
    return lambda texts: model.encode(list(texts), batch_size=_BATCH, show_progress_bar=False)


_ENCODERS: dict[ExportFormat, Callable[[Path, ExportFormat], Encode]] = {
    ExportFormat.SAVED_MODEL: _ids_encoder,
    ExportFormat.SAVED_MODEL_TEXT: _text_encoder,
    ExportFormat.MEDIAPIPE: _mediapipe_encoder,
    ExportFormat.MEDIAPIPE_FLOAT32: _mediapipe_encoder,
    ExportFormat.ONNX: _onnx_encoder,
    ExportFormat.SENTENCE_TRANSFORMERS: _sentence_transformers_encoder,
}

if __name__ == "__main__":
    with _OPEN:
        main(sys.argv[1:])
