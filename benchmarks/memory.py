"""Shows that the memory used in training does not grow with the corpus.

    python benchmarks/memory.py --set RUNS/static/set --vocabulary RUNS/static/vocabulary-...

Trains the same student on 80,000 pairs of the set and on all pairs (800,000 in the reference
corpus), for the same number of steps, each in its own process and from the least squares fit to
its set. Prints the peak resident memory of both and their ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")


def peak_megabytes() -> float:
    """Peak resident memory of this process, in MB (Linux counts kB, macOS bytes)."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def train(arguments: argparse.Namespace) -> None:
    """Runs one measured training and prints one line of JSON."""
    from kdkeras import Recipe, data, students
    from kdkeras.training.preparation import compiled_distiller, resolved

    dataset = data.DistillationSet(arguments.set)
    words = data.load_vocabulary(arguments.vocabulary)
    student = students.build_student(
        "static_256", vocabulary=words, output_dim=dataset.embedding_dim
    )
    students.initialize_from_targets(student, dataset)
    started = peak_megabytes()
    recipe = resolved(Recipe(dims=()), student)
    distiller = compiled_distiller(student, recipe, arguments.steps)
    batches = dataset.batches(recipe.batch_size, words).repeat()
    distiller.fit(batches, steps_per_epoch=arguments.steps, verbose=0)
    peaks = {"start_mb": round(started, 1), "peak_mb": round(peak_megabytes(), 1)}
    print(json.dumps({"pairs": dataset.num_pairs, **peaks}))


def part_of(source: Path, pairs: int, folder: Path) -> Path:
    """Writes a set of the first groups, with about `pairs` pairs."""
    from kdkeras import data

    dataset = data.DistillationSet(source)
    groups, rows, count = [], {}, 0
    for group, vector in dataset.records():
        if count >= pairs:
            break
        groups.append(group)
        rows[group.source] = vector
        count += len(group.translations)

    class Stored:
        """A teacher that returns the embeddings stored in the set."""

        name, fingerprint = dataset.teacher["name"], dataset.teacher["fingerprint"]
        embedding_dim, normalized = dataset.embedding_dim, dataset.normalized

        def encode(self, texts: list[str], batch_size: int = 64, progress: Any = None) -> Any:
            import numpy as np

            return np.stack([rows[text] for text in texts])

    data.write_distillation_set(groups, Stored(), folder)
    return folder


def measured(folder: Path, arguments: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--train", "--set", str(folder)]
    command += ["--vocabulary", str(arguments.vocabulary), "--steps", str(arguments.steps)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--set", type=Path, required=True)
    parser.add_argument("--vocabulary", type=Path, required=True)
    parser.add_argument("--pairs", type=int, default=80_000, help="size of the small part")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments)
        return
    with tempfile.TemporaryDirectory() as folder:
        small = measured(part_of(arguments.set, arguments.pairs, Path(folder) / "part"), arguments)
    large = measured(arguments.set, arguments)
    print("| pairs | peak resident memory, MB | before the first step |\n|---|---|---|")
    for result in (small, large):
        print(f"| {result['pairs']:,} | {result['peak_mb']:,.0f} | {result['start_mb']:,.0f} |")
    print(f"\nratio: {large['peak_mb'] / small['peak_mb']:.3f} (must be at most 1.1)")
    if large["peak_mb"] > 1.1 * small["peak_mb"]:
        sys.exit(1)


if __name__ == "__main__":
    main()
