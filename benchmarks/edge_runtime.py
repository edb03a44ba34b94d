"""Runs one artifact in one runtime; `edge.py` starts it as a separate process.

    python edge_runtime.py RUNTIME ARTIFACT TEXTS.json

Requires NumPy and the runtime, but not kdkeras. Prints one JSON object after loading, then one for
each line `LENGTH CALLS` of standard input, and one with its peak memory at the end.
"""

from __future__ import annotations

import itertools
import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Prepared = tuple[Callable[[], Any], Callable[[], Any], Callable[[], Any]]
"""For one length: sets the next input, runs the inference, and returns the embedding."""


def rows_of(sentences: list[dict[str, Any]], length: int) -> Iterator[dict[str, np.ndarray]]:
    """Yields the token ids of the sentences of one length in an endless cycle."""
    ids = [np.array([s["ids"]], np.int32) for s in sentences if len(s["ids"]) == length]
    rows = [{"token_ids": row, "padding_mask": np.ones_like(row)} for row in ids]
    return itertools.cycle(rows)


def litert(path: str, rows: Callable[[int], Iterator[dict[str, np.ndarray]]]) -> Any:
    """LiteRT's interpreter; a call is the inference alone, as in an app in C++ or Kotlin."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(path, num_threads=1)

    def prepare(length: int) -> Prepared:
        runner = interpreter.get_signature_runner(f"embed_{length}")
        # The calls that the signature runner makes, without its overhead in Python.
        graph, inner = runner._subgraph_index, interpreter._interpreter
        inputs = {name: runner._inputs[name] for name in ("token_ids", "padding_mask")}
        given = rows(length)

        def feed() -> None:
            for name, value in next(given).items():
                inner.SetTensor(inputs[name], value, graph)

        runner(**next(rows(length)))
        output = dict(runner._outputs)["embedding"]
        return feed, lambda: inner.Invoke(graph), lambda: inner.GetTensor(output, graph)

    return prepare


def onnx(path: str, rows: Callable[[int], Iterator[dict[str, np.ndarray]]]) -> Any:
    """ONNX Runtime with bound inputs and outputs; a call is the inference."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def prepare(length: int) -> Prepared:
        binding, given = session.io_binding(), rows(length)
        binding.bind_output("embedding")

        def feed() -> None:
            for name, value in next(given).items():
                binding.bind_cpu_input(name, value)

        call = lambda: session.run_with_iobinding(binding)  # noqa: E731
        return feed, call, lambda: binding.copy_outputs_to_cpu()[0]

    return prepare


def saved_model(path: str, rows: Callable[[int], Iterator[dict[str, np.ndarray]]]) -> Any:
    """TensorFlow; a call is the signature's function on tensors."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    model = tf.saved_model.load(path)
    signature = model.signatures["serving_default"]

    def prepare(length: int) -> Prepared:
        given, current = rows(length), {}

        def feed() -> None:
            current.update({k: tf.constant(v) for k, v in next(given).items()})

        # `model` keeps the signature's variables alive.
        call = lambda: model and signature(**current)  # noqa: E731
        return feed, call, lambda: call()["embedding"].numpy()

    return prepare


def torch(path: str, rows: Callable[[int], Iterator[dict[str, np.ndarray]]]) -> Any:
    """sentence-transformers in PyTorch; a call is the modules on tokenized text."""
    import torch as pytorch
    from sentence_transformers import SentenceTransformer

    pytorch.set_num_threads(1)
    model = SentenceTransformer(path, device="cpu")
    if hasattr(model[0], "processing_kwargs"):
        model[0].processing_kwargs = {}  # Otherwise texts are padded to 128 tokens.
    preprocess = getattr(model, "preprocess", model.tokenize)

    def prepare(length: int) -> Prepared:
        given = itertools.cycle([s["text"] for s in SENTENCES if len(s["ids"]) == length])
        current: dict[str, Any] = {}

        def feed() -> None:
            current.clear()
            current.update(preprocess([next(given)]))

        def call() -> Any:
            with pytorch.inference_mode():
                return model(dict(current))

        return feed, call, lambda: call()["sentence_embedding"].numpy()

    return prepare


def timed(feed: Callable[[], Any], call: Callable[[], Any], calls: int) -> float:
    """Returns the median duration of a call; setting the next input is not timed."""
    seconds = []
    for _ in range(calls):
        feed()
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def peak_memory() -> int:
    """Largest resident size of this process so far, in bytes."""
    status = Path("/proc/self/status")
    if status.exists():  # In `getrusage`, a child process starts at the peak of its parent.
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


RUNTIMES = {"litert": litert, "onnx": onnx, "saved_model": saved_model, "torch": torch}
SENTENCES: list[dict[str, Any]] = []


def main() -> None:
    """Loads the artifact, and measures the calls requested on standard input."""
    runtime, path, texts = sys.argv[1:]
    SENTENCES.extend(json.loads(Path(texts).read_text(encoding="utf-8")))
    started = time.perf_counter()
    prepare = RUNTIMES[runtime](path, lambda length: rows_of(SENTENCES, length))
    ready: dict[int, Prepared] = {}
    vectors = {}
    for length in sorted({len(s["ids"]) for s in SENTENCES}):
        ready[length] = prepare(length)
        feed, call, read = ready[length]
        feed()
        call()
        if len(ready) == 1:
            load_seconds = time.perf_counter() - started
        vectors[length] = read().ravel().tolist()
    print(json.dumps({"load_seconds": load_seconds, "vectors": vectors}), flush=True)
    for line in sys.stdin:
        length, calls = map(int, line.split())
        print(json.dumps({"seconds": timed(*ready[length][:2], calls)}), flush=True)
    print(json.dumps({"peak_memory": peak_memory()}), flush=True)


if __name__ == "__main__":
    main()
