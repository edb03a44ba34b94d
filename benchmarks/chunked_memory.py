"""Measures the memory of a training step on a large batch, with and without chunks.

    python benchmarks/chunked_memory.py

Trains a `mini` student on the bundled sample for a few steps, each variant in its own process.
Prints the peak resident memory of the process and the median CPU time per step, summed over all
cores (wall time depends on the other load of the machine). The first process only builds the
model and shows the memory that all processes need before the first batch.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

LOSSES = {"embedding": 2.0, "similarity": 0.5, "ranking": 0.5}
ENOUGH = 5.0
"""Seconds after which no further step is timed."""


def peak_megabytes() -> float:
    """Peak resident memory of this process, in MB (Linux counts kB, macOS bytes)."""
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3


def train(arguments: argparse.Namespace) -> None:
    """Runs one measured training and prints one line of JSON."""
    import tensorflow as tf

    from kdkeras import Recipe, data, students
    from kdkeras.training.preparation import compiled_distiller, resolved

    folder = data.sample_folder()
    dataset = data.DistillationSet(folder / "distillation_set")
    words = data.load_vocabulary(folder / "vocabulary")
    student = students.build_student(
        "mini",
        vocabulary=words,
        output_dim=dataset.embedding_dim,
        sequence_length=arguments.length,
    )
    recipe = resolved(Recipe(dims=(), loss_weights=LOSSES), student)
    distiller = compiled_distiller(student, recipe, 100, chunk_size=arguments.chunk)
    distiller.optimizer.build(distiller.trainable_weights)
    times: list[float] = []
    if arguments.batch_size:
        options: dict[str, Any] = {"bucket_boundaries": [arguments.length]}
        options.update(sequence_length=arguments.length, shuffle_buffer_size=arguments.batch_size)
        batches = dataset.batches(arguments.batch_size, words, **options).repeat()
        step = tf.function(distiller.train_step, autograph=False)
        step = step.get_concrete_function(batches.element_spec)
        for batch in batches:
            started = time.process_time()
            float(step(batch)["loss"])
            times.append(time.process_time() - started)
            if sum(times) > ENOUGH:
                break
    times = sorted(times) or [0.0]
    median = times[len(times) // 2]
    print(json.dumps({"peak_mb": peak_megabytes(), "seconds": median}))


def measured(batch_size: int, chunk: int | None, arguments: argparse.Namespace) -> dict[str, Any]:
    command = [sys.executable, __file__, "--train", "--batch-size", str(batch_size)]
    command += ["--length", str(arguments.length)]
    command += [] if chunk is None else ["--chunk", str(chunk)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        # The process was killed for its memory use, or TensorFlow raised an error.
        sys.exit(f"batch {batch_size}, chunk {chunk}: {done.returncode}\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--at-once", type=int, nargs="*", default=[256, 1024], help="pairs per step, without chunks"
    )
    parser.add_argument(
        "--in-chunks", type=int, nargs="*", default=[1024, 8192], help="pairs per step"
    )
    parser.add_argument("--chunk", type=int, help="pairs per chunk, default 256")
    parser.add_argument("--length", type=int, default=32, help="tokens per sentence")
    parser.add_argument("--output", type=Path, help="JSON file")
    parser.add_argument("--batch-size", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train:
        train(arguments)
        return
    chunk = arguments.chunk or 256
    ways: list[tuple[int, int | None]] = [(0, None), *((size, None) for size in arguments.at_once)]
    ways += [(size, chunk) for size in arguments.in_chunks]
    print(f"{os.cpu_count()} cores, {arguments.length} tokens per sentence\n")
    print("The first row is a process that runs no step.\n")
    print("| pairs per step | pairs per forward pass | peak resident memory, MB | CPU s per step |")
    print("|---|---|---|---|")
    results = []
    for batch_size, size in ways:
        found = {"batch": batch_size, "chunk": size, **measured(batch_size, size, arguments)}
        results.append(found)
        print(
            f"| {batch_size:,} | {size or batch_size:,} | {found['peak_mb']:,.0f} "
            f"| {found['seconds']:.1f} |",
            flush=True,
        )
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
