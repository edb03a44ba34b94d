"""Measures the inference time of exported students and of other runtimes, with one thread.

    sh tools/runtimes.sh                     # .venv-runtimes: PyTorch, sentence-transformers
    .venv/bin/python -m pip install '.[onnx]'
    .venv/bin/python benchmarks/edge.py --output RUNS/edge

Measures the time for one sentence, from token ids to the embedding, with batch size 1, for each
student, runtime, number format and length (16, 32, 64, 128 tokens). All runtimes have the same
weights and are loaded at the same time, each in its own process. They run in turns, one at a time,
and each figure is the median of its turns. The sentences are held-out sentences of the bundled
sample, concatenated and truncated at words to exactly these lengths. Writes `edge.json` and
`edge.md`, losing rows included. The weights are randomly initialized, because the time of a matrix
product does not depend on its values.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

HERE = Path(__file__).parent
ROOT = HERE.parent
LENGTHS = (16, 32, 64, 128)
ROWS, SECONDS, ROUNDS = 48, 0.12, 7
SIZES = ("static_256", "tiny", "mini")
FORMATS = ("tflite_float32", "tflite_int8", "saved_model", "onnx", "sentence_transformers")
RUNTIMES = {
    # name: (runtime, path in the folder, whether it needs the Python of `--peers`)
    "LiteRT float32": ("litert", "model.float32.tflite", False),
    "LiteRT int8": ("litert", "model.int8.tflite", False),
    "ONNX Runtime float32": ("onnx", "model.onnx", False),
    "ONNX Runtime int8": ("onnx", "model.int8.onnx", False),
    "TensorFlow SavedModel": ("saved_model", "saved_model", False),
    "sentence-transformers, PyTorch": ("torch", "sentence_transformers", True),
}


def real_sentences(tokenize: Any) -> list[dict[str, Any]]:
    """Returns `ROWS` texts of exactly each length, as `{"text", "ids"}`."""
    from kdkeras import data

    pairs = data.read_translation_pairs(data.sample_folder() / "held_out")
    texts = [text for sides in pairs.values() for side in sides for text in side]
    texts = [text for text in texts if " " in text]
    found: dict[int, list[dict[str, Any]]] = {length: [] for length in LENGTHS}
    for start in range(len(texts)):
        words = " ".join(texts[start : start + 40]).split()
        lengths = [length for length in LENGTHS if len(found[length]) < ROWS]
        if not lengths:
            break
        for count in range(1, min(len(words), max(lengths)) + 1):
            text = " ".join(words[:count])
            ids = tokenize([text])[0]
            if len(ids) in lengths and len(found[len(ids)]) < ROWS:
                found[len(ids)].append({"text": text, "ids": list(map(int, ids))})
                lengths.remove(len(ids))
            if not lengths or len(ids) > max(lengths):
                break
    return [sentence for length in LENGTHS for sentence in found[length]]


def export_students(folder: Path) -> dict[str, Path]:
    """Exports a student of each size in all formats; returns the folders by size."""
    import keras

    from kdkeras import data, students
    from kdkeras.export import export_student

    vocabulary = data.load_vocabulary(data.sample_folder() / "vocabulary")
    folders = {}
    for name in SIZES:
        folders[name] = folder / name
        if (folders[name] / "export.json").exists():
            continue
        keras.utils.set_random_seed(0)
        student = students.build_student(
            name, vocabulary=vocabulary, output_dim=384, sequence_length=max(LENGTHS)
        )
        export_student(student, folders[name], FORMATS, sequence_lengths=LENGTHS[:-1])
    return folders


def tokenizer_microseconds(folder: Path, sentences: list[dict[str, Any]]) -> dict[int, float]:
    """Returns the median time of the exported tokenizer for a sentence of each length."""
    tokenize, found = load_tokenizer(folder), {}
    for length in LENGTHS:
        seconds = []
        for text in [s["text"] for s in sentences if len(s["ids"]) == length] * 5:
            started = time.perf_counter()
            tokenize([text])
            seconds.append(time.perf_counter() - started)
        found[length] = statistics.median(seconds) * 1e6
    return found


def load_tokenizer(folder: Path) -> Any:
    from kdkeras.export import tokenizer

    manifest = json.loads((folder / "export.json").read_text(encoding="utf-8"))
    kind, length = manifest["vocabulary"]["kind"], manifest["sequence_length"]
    return tokenizer.load_tokenizer(folder / "tokenizer", kind, length)


def quantize_onnx(folder: Path) -> None:
    """Writes the same model with the dynamic int8 quantization of ONNX Runtime."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    target = folder / "model.int8.onnx"
    if not target.exists():
        part = target.with_suffix(".part")
        quantize_dynamic(folder / "model.onnx", part, weight_type=QuantType.QInt8)
        part.rename(target)


def size(path: Path) -> int:
    """Returns the size in bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    return sum(p.stat().st_size for p in files)


class Runtime:
    """A process that loads one artifact and runs it on request."""

    def __init__(self, name: str, folder: Path, peers: str, texts: Path) -> None:
        runtime, path, in_peers = RUNTIMES[name]
        python = peers if in_peers else sys.executable
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        self.bytes = size(folder / path)
        self.process = subprocess.Popen(
            [python, HERE / "edge_runtime.py", runtime, folder / path, texts],
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL},
            text=True,
            env=environment,
        )
        first = self._answer()
        self.load_seconds = first["load_seconds"]
        self.vectors = np.array([first["vectors"][str(length)] for length in LENGTHS])

    def _answer(self) -> dict[str, Any]:
        line = self.process.stdout.readline()
        if not line:
            command = " ".join(map(str, self.process.args))
            sys.exit(f"{command} ended early. Run this command by hand to see its error.")
        return json.loads(line)

    def seconds(self, length: int, calls: int) -> float:
        """Returns the median duration of `calls` calls."""
        self.process.stdin.write(f"{length} {calls}\n")
        self.process.stdin.flush()
        return self._answer()["seconds"]

    def close(self) -> int:
        """Ends the process; returns its peak memory in bytes."""
        self.process.stdin.close()
        peak = self._answer()["peak_memory"]
        self.process.wait()
        return peak


def measure(folder: Path, peers: str, texts: Path) -> list[dict[str, Any]]:
    """Measures all runtimes of one student in turns."""
    runtimes = {name: Runtime(name, folder, peers, texts) for name in RUNTIMES}
    exact = runtimes["LiteRT float32"].vectors
    turns = {(name, length): [] for name in runtimes for length in LENGTHS}
    calls: dict[tuple[str, int], int] = {}
    for _ in range(ROUNDS):
        for name, length in turns:
            runtime = runtimes[name]
            if (name, length) not in calls:
                once = runtime.seconds(length, 20)
                calls[name, length] = max(20, min(2000, int(SECONDS / once)))
            turns[name, length].append(runtime.seconds(length, calls[name, length]))
    return [
        {
            "runtime": name,
            "megabytes": runtime.bytes / 1e6,
            "cosine": float(np.min(np.sum(exact * runtime.vectors, axis=-1))),
            "load_seconds": runtime.load_seconds,
            "peak_memory_mb": runtime.close() / 1e6,
            "microseconds": {n: statistics.median(turns[name, n]) * 1e6 for n in LENGTHS},
            "turns": {n: [s * 1e6 for s in turns[name, n]] for n in LENGTHS},
        }
        for name, runtime in runtimes.items()
    ]


def table(results: dict[str, Any]) -> str:
    """Returns Markdown tables of microseconds, with the ratio to LiteRT int8."""
    lines = []
    for name, found in results.items():
        rows = found["runtimes"]
        ours = next(r for r in rows if r["runtime"] == "LiteRT int8")["microseconds"]
        lines += [f"**{name}**", ""]
        lines += [
            "| runtime | MB | cosine | load, s | peak memory, MB | "
            + " | ".join(f"{n} tokens, µs" for n in LENGTHS)
            + " |"
        ]
        lines += ["|---|" + "---|" * (4 + len(LENGTHS))]
        for row in rows:
            times = [row["microseconds"][n] for n in LENGTHS]
            cells = [f"{t:,.1f} ({t / ours[n]:.2f}×)" for n, t in zip(LENGTHS, times, strict=True)]
            lines.append(
                f"| {row['runtime']} | {row['megabytes']:.1f} "
                f"| {row['cosine']:.5f} | {row['load_seconds']:.2f} "
                f"| {row['peak_memory_mb']:.0f} | " + " | ".join(cells) + " |"
            )
        cells = [f"{found['tokenizer'][n]:.0f}" for n in LENGTHS]
        lines += ["| tokenizer, in Python, in addition | | | | | " + " | ".join(cells) + " |", ""]
    lines += [
        "Cosine: minimum to LiteRT float32, one sentence of each length. In parentheses: time "
        "relative to LiteRT int8."
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Exports the students, measures all runtimes and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder for all results")
    parser.add_argument(
        "--peers",
        default=str(ROOT / ".venv-runtimes/bin/python"),
        help="Python with the other runtimes (default: %(default)s)",
    )
    arguments = parser.parse_args()
    if not Path(arguments.peers).exists():
        parser.error(
            f"`--peers` must be a Python interpreter. Received: {arguments.peers}. "
            "Run sh tools/runtimes.sh first."
        )
    arguments.output.mkdir(parents=True, exist_ok=True)
    folders, results = export_students(arguments.output), {}
    for name, folder in folders.items():
        quantize_onnx(folder)
        sentences = real_sentences(load_tokenizer(folder))
        texts = arguments.output / "sentences.json"
        texts.write_text(json.dumps(sentences), encoding="utf-8")
        tokenizing = tokenizer_microseconds(folder, sentences)
        results[name] = {
            "tokenizer": tokenizing,
            "runtimes": measure(folder, arguments.peers, texts),
        }
        print(table({name: results[name]}), flush=True)
    (arguments.output / "edge.json").write_text(json.dumps(results, indent=2))
    (arguments.output / "edge.md").write_text(table(results), encoding="utf-8")


if __name__ == "__main__":
    main()
