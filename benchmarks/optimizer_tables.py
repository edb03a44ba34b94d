"""Measures the time of a training step by optimizer and number of table rows.

    python benchmarks/optimizer_tables.py

Trains a static student of width 256 with 256 pairs per step, whose tokens are drawn uniformly from
the table. The optimizers run in turns, so that other load of the machine affects them equally, and
each cell is the median. The number in parentheses is the ratio to keras.optimizers.Adam, which
receives the same dense gradients (Keras 3.15 computes a wrong update from sparse ones).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf

from kdkeras.optimizers import FusedAdam, LazyAdam
from kdkeras.recipe import Recipe
from kdkeras.students import StaticStudent
from kdkeras.training.preparation import compiled_distiller

OPTIMIZERS = {
    "keras.optimizers.Adam": keras.optimizers.Adam,
    "FusedAdam": FusedAdam,
    "LazyAdam": LazyAdam,
    "keras.optimizers.SGD": keras.optimizers.SGD,
}


def batch(rows: int, pairs: int, length: int) -> Any:
    generator = np.random.default_rng(0)
    x: dict[str, Any] = {"source_id": tf.range(pairs, dtype=tf.int64)}
    for side in ("source", "translation"):
        x[f"{side}_token_ids"] = tf.constant(generator.integers(1, rows, (pairs, length)), tf.int32)
        x[f"{side}_padding_mask"] = tf.ones((pairs, length), tf.int32)
    return x, {"embedding": tf.constant(generator.normal(size=(pairs, 384)), tf.float32)}


def steps(rows: int, dim: int) -> dict[str, Any]:
    """Returns a compiled training step for each optimizer."""
    made = {}
    for name, optimizer in OPTIMIZERS.items():
        losses = {"embedding": 2.0, "similarity": 0.5, "ranking": 0.5}
        recipe = Recipe(dims=(), loss_weights=losses, learning_rate=1e-3)
        distiller = compiled_distiller(StaticStudent(rows, 384, dim), recipe, 1_000)
        distiller.compile(optimizer(1e-3), jit_compile=False)
        distiller.make_train_function()
        made[name] = distiller.train_function
    return made


def measure(rows: int, arguments: argparse.Namespace) -> dict[str, float]:
    """Returns the median milliseconds per step, by optimizer."""
    made = steps(rows, arguments.dim)
    data = batch(rows, arguments.batch_size, arguments.length)
    times: dict[str, list[float]] = {name: [] for name in made}
    for _ in range(arguments.rounds + 2):
        for name, step in made.items():
            started = time.perf_counter()
            float(step(iter([data]))["loss"])
            times[name].append(1000 * (time.perf_counter() - started))
    return {name: float(np.median(values[2:])) for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows", type=int, nargs="+", default=[32_000, 64_000, 128_000, 256_000, 500_000]
    )
    parser.add_argument("--dim", type=int, default=256, help="width of the table")
    parser.add_argument("--batch-size", type=int, default=256, help="pairs per step")
    parser.add_argument("--length", type=int, default=16, help="tokens per sentence")
    parser.add_argument("--rounds", type=int, default=15, help="timed steps per optimizer")
    parser.add_argument("--output", type=Path, help="JSON file")
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores; median ms per step (ratio to keras.optimizers.Adam)\n")
    print("| rows | " + " | ".join(OPTIMIZERS) + " |\n" + "|---" * (len(OPTIMIZERS) + 1) + "|")
    results = {}
    for rows in arguments.rows:
        found = results[rows] = measure(rows, arguments)
        keras.backend.clear_session()
        first = found["keras.optimizers.Adam"]
        cells = " | ".join(f"{value:.0f} ({value / first:.2f})" for value in found.values())
        print(f"| {rows:,} | {cells} |", flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
