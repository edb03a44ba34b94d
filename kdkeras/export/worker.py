"""Runs one artifact in a process of its own, as its users will.

`python -m kdkeras.export.worker FOLDER ARTIFACT TEXTS.json OUTPUT` embeds the
texts and writes `OUTPUT/embeddings.npy` and `OUTPUT/result.json`. The process
of a TFLite file never imports TensorFlow, that of `saved_model/` never
tensorflow_text.
"""

from __future__ import annotations

import json
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
from kdkeras.export.memory import peak_memory
from kdkeras.export.tokenizer import load_tokenizer, padded
from kdkeras.strings import to_bytes

Encode = Callable[[Sequence[str]], np.ndarray]

_BATCH = 64
_WARM_UP = 10
_TIMED = 100
# What is to be closed before the interpreter's end, when half of MediaPipe is gone.
_OPEN = ExitStack()


def main(arguments: Sequence[str]) -> None:
    """Embeds texts with one artifact and reports what it cost."""
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
        "peak_memory_mb": peak_memory() / 1e6,
        "imported": [m for m in ("tensorflow", "tensorflow_text") if sys.modules.get(m)],
    }
    np.save(Path(output) / "embeddings.npy", np.concatenate(batches))
    (Path(output) / "result.json").write_text(json.dumps(result), encoding="utf-8")


def _latency_ms(encode: Encode, texts: Sequence[str]) -> float:
    """Median milliseconds from one string to its vector."""
    # Spread over the list, which is ordered by language.
    sample = [texts[int(i)] for i in np.linspace(0, len(texts) - 1, _TIMED)]
    for text in sample[:_WARM_UP]:
        encode([text])
    seconds = []
    for text in sample:
        started = time.perf_counter()
        encode([text])
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds) * 1e3


def _tensorflow() -> Any:
    import tensorflow as tf

    # Like the other artifacts: one thread.
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    return tf


def _tokenizer(folder: Path) -> Callable[[Sequence[str]], dict[str, np.ndarray]]:
    """From texts to `token_ids` and `padding_mask`, as long as the longest."""
    manifest = read_manifest(folder)
    vocabulary = manifest["vocabulary"]
    tokenize = load_tokenizer(folder / TOKENIZER, vocabulary["kind"], manifest["sequence_length"])

    def inputs(texts: Sequence[str]) -> dict[str, np.ndarray]:
        rows = tokenize(texts)
        # At least one column: attention over none is not defined everywhere.
        return padded(rows, vocabulary["pad_id"], max(1, *map(len, rows)))

    return inputs


def _ids_encoder(folder: Path, artifact: ExportFormat) -> Encode:
    tf = _tensorflow()
    model = tf.saved_model.load(str(folder / artifact.path))
    signature = model.signatures["serving_default"]
    tokenize = _tokenizer(folder)

    def encode(texts: Sequence[str]) -> np.ndarray:
        inputs = {name: tf.constant(values) for name, values in tokenize(texts).items()}
        # `model` is kept here: a signature alone does not keep its variables alive.
        return model and signature(**inputs)["embedding"].numpy()

    return encode


def _text_encoder(folder: Path, artifact: ExportFormat) -> Encode:
    tf = _tensorflow()
    import tensorflow_text  # noqa: F401  (registers the tokenizer's operations)

    model = tf.saved_model.load(str(folder / artifact.path))
    signature = model.signatures["serving_default"]

    def encode(texts: Sequence[str]) -> np.ndarray:
        given = [to_bytes(text) for text in texts]  # Not mended here: the graph has to.
        return model and signature(texts=tf.constant(given))["embedding"].numpy()

    return encode


def _lite_encoder(folder: Path, artifact: ExportFormat) -> Encode:
    from kdkeras.export.lite import LiteStudent

    return LiteStudent(folder, artifact, num_threads=1).encode


def _mediapipe_encoder(folder: Path, artifact: ExportFormat) -> Encode:
    # MediaPipe imports TensorFlow where there is one, to open files with.
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
