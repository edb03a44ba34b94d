"""Measures time and traffic of training on one device, two replicas and two workers.

    python benchmarks/replicas.py --output RUNS/replicas

Uses the bundled sample, a `static_256` student with a table of 32,000 rows, and 256 pairs per step
in total. The variants run one after the other in separate processes on the same cores: replicas
or workers share the cores of the machine, so the times show the overhead and no speed-up. The
bytes are those that one step passes to all-reduce and all-gather (of all replicas of the process)
and, for two workers, those sent through the loopback interface.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

WAYS = {"one device": ("none", 1), "two replicas": ("mirrored", 1), "two workers": (None, 2)}
WARM, TIMED = 10, 60


def loopback_bytes() -> int:
    """Returns the number of bytes sent through the loopback interface so far."""
    lines = Path("/proc/net/dev").read_text().splitlines()
    return next(int(line.split(":")[1].split()[8]) for line in lines if line.strip()[:3] == "lo:")


@contextmanager
def counted_bytes() -> Iterator[list[int]]:
    """Records the bytes passed to collectives in steps that are traced and run in this context."""
    import tensorflow as tf

    context, given = tf.distribute.ReplicaContext, []

    def counting(method: Any) -> Any:
        def call(self: Any, *arguments: Any, **named: Any) -> Any:
            for value in tf.nest.flatten((arguments, named), expand_composites=True):
                if isinstance(value, tf.Tensor):
                    # Some shapes are known only at run time.
                    tf.py_function(lambda x: given.append(x.numpy().nbytes), [value], [])
            return method(self, *arguments, **named)

        return call

    methods = {name: getattr(context, name) for name in ("all_reduce", "all_gather")}
    try:
        for name, method in methods.items():
            setattr(context, name, counting(method))
        yield given
    finally:
        for name, method in methods.items():
            setattr(context, name, method)


def run_worker(name: str | None, optimizer: str, output: Path) -> None:
    """Trains in this process and writes the time per step."""
    import kdkeras

    strategy = kdkeras.distribution.choose_strategy(name, 2 if name == "mirrored" else None)
    import keras

    from kdkeras import data, optimizers, students
    from kdkeras.training.preparation import compiled_distiller

    folder = data.sample_folder()
    dataset = data.DistillationSet(folder / "distillation_set")
    words = data.load_vocabulary(folder / "vocabulary")
    keras.utils.set_random_seed(0)
    with strategy.scope():
        student = students.StaticStudent(32_000, dataset.embedding_dim, 256)
        losses = {"embedding": 2.0, "similarity": 0.5, "ranking": 0.5}
        recipe = kdkeras.Recipe(dims=(), loss_weights=losses, learning_rate=1e-3)
        distiller = compiled_distiller(student, recipe, TIMED)
        distiller.compile(getattr(optimizers, optimizer)(1e-3), jit_compile=False)
    # One length, so that the step is traced once.
    options = {"sequence_length": 32, "bucket_boundaries": [32]}
    batches = kdkeras.distribution.distribute_batches(strategy, dataset, 256, words, **options)
    if name is not None:
        batches = strategy.experimental_distribute_dataset(batches.repeat())
    distiller.make_train_function()
    iterator = iter(batches)
    for _ in range(WARM):
        float(distiller.train_function(iterator)["loss"])
    before, started = loopback_bytes(), time.perf_counter()
    for _ in range(TIMED):
        float(distiller.train_function(iterator)["loss"])
    seconds = (time.perf_counter() - started) / TIMED
    sent = (loopback_bytes() - before) / TIMED
    given = []
    if strategy.num_replicas_in_sync > 1:
        with counted_bytes() as given:
            distiller.make_train_function(force=True)
            float(distiller.train_function(iterator)["loss"])
    output.write_text(json.dumps({"seconds": seconds, "loopback": sent, "counted": sum(given)}))


def run_way(way: str, optimizer: str, folder: Path) -> dict[str, float]:
    name, workers = WAYS[way]
    ports = []
    for _ in range(workers):
        with socket.socket() as one:
            one.bind(("localhost", 0))
            ports.append(one.getsockname()[1])
    addresses = [f"localhost:{port}" for port in ports]
    outputs = [folder / f"{way}-{optimizer}-{i}.json".replace(" ", "-") for i in range(workers)]
    processes = []
    for i, output in enumerate(outputs):
        task = {"type": "worker", "index": i}
        config = {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": task})}
        command = [sys.executable, __file__, "--worker", str(name), "--optimizer", optimizer]
        environment = {**os.environ, **(config if workers > 1 else {})}
        processes.append(subprocess.Popen([*command, "--output", str(output)], env=environment))
    if any(process.wait() for process in processes):
        raise SystemExit(f"{way} failed.")
    found = [json.loads(output.read_text()) for output in outputs]
    return {
        "seconds": max(one["seconds"] for one in found),
        "loopback": found[0]["loopback"],
        "counted": found[0]["counted"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--optimizer", default="FusedAdam", help="FusedAdam or LazyAdam")
    arguments = parser.parse_args()
    if arguments.worker:
        name = None if arguments.worker == "None" else arguments.worker
        run_worker(name, arguments.optimizer, arguments.output)
        return
    arguments.output.mkdir(parents=True, exist_ok=True)
    print(f"{os.cpu_count()} cores, shared by all replicas and workers\n")
    print(
        "| | optimizer | ms per step | pairs/s | ratio to one device | MB reduced by collectives "
        "| MB over the loopback |"
    )
    print("|---|---|---|---|---|---|---|")
    results = {}
    for optimizer in ("FusedAdam", "LazyAdam"):
        for way in WAYS:
            found = results[f"{way}, {optimizer}"] = run_way(way, optimizer, arguments.output)
            ratio = found["seconds"] / results[f"one device, {optimizer}"]["seconds"]
            print(
                f"| {way} | {optimizer} | {1000 * found['seconds']:.1f} | "
                f"{256 / found['seconds']:,.0f} | {ratio:.2f} | "
                f"{found['counted'] / 1e6:.2f} | {found['loopback'] / 1e6:.2f} |",
                flush=True,
            )
    (arguments.output / "replicas.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
