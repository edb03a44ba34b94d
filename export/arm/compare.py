"""Compares an exported student under QEMU's aarch64 with the same file on this machine.

`check.sh` makes the root and calls this. Both sides run `export/run_litert.py`, whole, from
string to vector, so that the tokenizer's wheel is compared too.
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
# An old small core, a current one, one with SVE: XNNPACK picks other kernels for each.
CPUS = ("cortex-a53", "cortex-a76", "neoverse-v1")
# Sums in another order: a few units in the last place of a float32 in [-1, 1].
FLOAT32_DIFFERENCE = 1e-6
# Dynamic quantisation rounds each activation, so that one unit there can turn over.
OTHER_COSINE = 0.99999


def read_sentences(folder: Path, per_language: int) -> list[str]:
    """Returns the first sentences of every `{language}.tsv`, and their English."""
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


def least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Returns the lowest cosine between rows of the same number, in float64."""
    a, b = a.astype(np.float64), b.astype(np.float64)
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / lengths).min())


def is_equal(file: str, difference: float, cosine: float) -> bool:
    """Whether two runtimes agree as far as the file's kind allows."""
    return difference <= FLOAT32_DIFFERENCE if ".float32." in file else cosine >= OTHER_COSINE


def compare(arguments: argparse.Namespace, files: list[str], sentences: list[str]) -> bool:
    """Prints one line a file and processor; returns whether all agree."""
    root = arguments.root
    emulator = [str(root / "qemu/usr/bin/qemu-aarch64"), "-L", str(root / "root")]
    emulator += ["-E", f"PYTHONPATH={root / 'site'}"]
    print(f"{len(sentences)} sentences from {arguments.sentences.name}\n")
    columns = ("file", "processor", "least cosine", "difference", "seconds", "")
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
            cosine = least_cosine(found, expected)
            difference = float(np.abs(found - expected).max())
            equal = is_equal(file, difference, cosine)
            fine = fine and equal
            row = f"{file:24} {cpu:12} {cosine:12.7f} {difference:12.1e} {seconds:8.1f}"
            print(row, "" if equal else " DIFFERS")
    return fine


def main() -> None:
    """Reads the arguments; status 1 if a file differs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="what `kdkeras export` wrote")
    parser.add_argument("--root", type=Path, required=True, help="what check.sh unpacked")
    parser.add_argument("--python", required=True, help="its Python, e.g. python3.13")
    parser.add_argument("--cpu", nargs="+", default=CPUS, help="processors (default: %(default)s)")
    parser.add_argument(
        "--file", nargs="+", help="models in the folder; all its .tflite files if left out"
    )
    parser.add_argument(
        "--sentences", type=Path, default=SAMPLE, help="folder of {language}.tsv pairs"
    )
    parser.add_argument(
        "--per-language", type=int, default=4, help="pairs of each (default: %(default)s)"
    )
    arguments = parser.parse_args()
    if not (arguments.folder / "export.json").is_file():
        parser.error(f"`folder` must hold export.json. Received: {arguments.folder}.")
    files = arguments.file or sorted(p.name for p in arguments.folder.glob("model.*.tflite"))
    sentences = read_sentences(arguments.sentences, arguments.per_language)
    if not files or not sentences:
        parser.error(
            f"There must be a .tflite file and sentences. Received: {files} in {arguments.folder}, "
            f"{len(sentences)} sentences in {arguments.sentences}."
        )
    if not compare(arguments, files, sentences):
        sys.exit(
            "\nFAILED: float32 must agree to "
            f"{FLOAT32_DIFFERENCE:g}, every other file to a cosine of {OTHER_COSINE}."
        )
    print("\nAll equal to this machine's.")


if __name__ == "__main__":
    main()
