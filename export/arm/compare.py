"""Compares an exported student on ARM, emulated by QEMU, with the same file on this machine.

`check.sh` creates the aarch64 root and runs this script. Both machines run
`export/run_litert.py`, from string to embedding, so that the tokenizer is compared too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
SCRIPT = HERE.parent / "run_litert.py"
SAMPLE = HERE.parents[1] / "kdkeras" / "sample" / "held_out"
# An old small core, a current core, and one with SVE: XNNPACK uses different kernels for each.
CPUS = ("cortex-a53", "cortex-a76", "neoverse-v1")
# Sums in a different order change float32 values in [-1, 1] by a few units in the last place.
FLOAT32_DIFFERENCE = 1e-6
# Dynamic quantization rounds activations, and a tiny difference can change a rounded value.
OTHER_COSINE = 0.99999


def read_sentences(folder: Path, per_language: int) -> list[str]:
    """Returns the first sentences of every `{language}.tsv` and their English translations."""
    found = []
    for path in sorted(folder.glob("*.tsv")):
        rows = path.read_text(encoding="utf-8").splitlines()[:per_language]
        found += [side for row in rows for side in row.split("\t")[:2]]
    return list(dict.fromkeys(found))


def embed(command: Sequence[str], sentences: list[str]) -> np.ndarray:
    """Runs run_litert.py and returns float32 `(len(sentences), embedding_dim)`."""
    text = "".join(f"{sentence}\n" for sentence in sentences)
    result = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    if result.returncode:
        print(result.stderr, file=sys.stderr)
        raise SystemExit(
            f"compare.py: error: run_litert.py must run. Received: status {result.returncode} "
            f"of {command[0]}, see above."
        )
    rows = [json.loads(line)["embedding"] for line in result.stdout.splitlines()]
    return np.array(rows, np.float32)


def min_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the minimum cosine between corresponding rows, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / lengths).min())


def is_equal(file: str, difference: float, cosine: float) -> bool:
    """Whether a difference is within the limit for the precision of the file."""
    return difference <= FLOAT32_DIFFERENCE if ".float32." in file else cosine >= OTHER_COSINE


def compare(arguments: argparse.Namespace, files: list[str], sentences: list[str]) -> bool:
    """Prints one line per file and processor. Returns whether all are within the limits."""
    root = arguments.root
    emulator = [str(root / "qemu/usr/bin/qemu-aarch64"), "-L", str(root / "root")]
    emulator += ["-E", f"PYTHONPATH={root / 'site'}"]
    print(f"{len(sentences)} sentences from {arguments.sentences.name}\n")
    columns = ("file", "processor", "min cosine", "difference", "seconds", "")
    print("{:24} {:12} {:>12} {:>12} {:>8}  {}".format(*columns))
    fine = True
    for file in files:
        script = [str(SCRIPT), str(arguments.folder), "--json", "--file", file]
        expected = embed([sys.executable, *script], sentences)
        for cpu in arguments.cpu:
            started = time.perf_counter()
            python = str(root / "root/usr/bin" / arguments.python)
            found = embed([*emulator, "-cpu", cpu, python, *script], sentences)
            seconds = time.perf_counter() - started
            cosine = min_cosine(found, expected)
            difference = float(np.abs(found - expected).max())
            equal = is_equal(file, difference, cosine)
            fine = fine and equal
            row = f"{file:24} {cpu:12} {cosine:12.7f} {difference:12.1e} {seconds:8.1f}"
            print(row, "" if equal else " DIFFERS")
    return fine


def main() -> None:
    """Parses the arguments and exits with status 1 if a file differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="folder that `kdkeras export` wrote")
    parser.add_argument("--root", type=Path, required=True, help="folder that check.sh created")
    parser.add_argument("--python", required=True, help="name of its Python, e.g. python3.13")
    parser.add_argument("--cpu", nargs="+", default=CPUS, help="processors (default: %(default)s)")
    parser.add_argument(
        "--file", nargs="+", help="models in the folder (default: all .tflite files)"
    )
    parser.add_argument(
        "--sentences", type=Path, default=SAMPLE, help="folder of {language}.tsv pairs"
    )
    parser.add_argument(
        "--per-language", type=int, default=4, help="pairs per language (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if not (arguments.folder / "export.json").is_file():
        parser.error(
            f"`folder` must contain export.json. Received: {arguments.folder}. "
            "Pass a folder that `kdkeras export` wrote."
        )
    files = arguments.file or sorted(p.name for p in arguments.folder.glob("model.*.tflite"))
    sentences = read_sentences(arguments.sentences, arguments.per_language)
    if not files or not sentences:
        parser.error(
            "A .tflite file and sentences are required. Received: "
            f"{files} in {arguments.folder}, {len(sentences)} sentences in {arguments.sentences}. "
            "Export a TFLite format, or pass other folders."
        )
    if not compare(arguments, files, sentences):
        sys.exit(
            "\nFAILED: the maximum difference for float32 is "
            f"{FLOAT32_DIFFERENCE:g}, and the minimum cosine for other files is {OTHER_COSINE}."
        )
    print("\nAll embeddings equal those of this machine within the limits.")


if __name__ == "__main__":
    main()
