"""Trains every case with one replica and with two, in one process, and writes the differences.

    python run_cases.py OUTPUT.json

A second MirroredStrategy in a process poisons it, so all cases share one, in a
process of their own.
"""

from __future__ import annotations

import contextlib
import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

sys.path.insert(0, str(Path(__file__).parents[1]))
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import keras  # noqa: E402
from distribution_cases import CASES  # noqa: E402
from small_models import fit_stages, pairs  # noqa: E402

from kdkeras.distillation.update import inner  # noqa: E402

keras.config.disable_traceback_filtering()


def run(case, strategy):
    scope = strategy.scope() if strategy else contextlib.nullcontext()
    with scope:
        distiller = case.build()
    x, y = pairs(rows=case.rows)
    sample_weight = np.linspace(0.5, 2.0, case.rows, dtype="float32") if case.weighted else None
    if case.taught:
        y = {}
    if case.targets is not None:
        y.update(case.targets(case.rows))
    if case.labelled:
        y["label"] = np.arange(case.rows) % 4
    # Keras drops the weights of arrays whose targets a live teacher gives.
    rows = (x, y) if sample_weight is None else (x, y, sample_weight)
    data = tf.data.Dataset.from_tensor_slices(rows).batch(case.batch_size)
    if case.stages:
        history = fit_stages(distiller, data, case.stages, verbose=0).history
    else:
        options = {"epochs": 2, "callbacks": case.callbacks(), "verbose": 0}
        history = distiller.fit(data, **options).history
    evaluated = distiller.evaluate(data, verbose=0, return_dict=True)
    logs = {**{f"fit {k}": v for k, v in history.items()}, **evaluated}
    weights = [np.asarray(weight) for weight in distiller.get_weights()]
    moments = [np.asarray(v) for v in inner(distiller.optimizer).variables]
    return weights, logs, moments, trained(distiller)


def trained(distiller):
    """What gradients move; a loss's memory and a balancing's sizes move without them."""
    return [np.asarray(weight) for weight in distiller.trainable_weights]


def difference(one, other, relative=False):
    """The largest, of values above 1 in units of the value where `relative`."""
    return max(
        float(np.max(np.abs(a - b) / (np.maximum(1.0, np.abs(a)) if relative else 1.0)))
        for a, b in zip(one, other, strict=True)
    )


def main():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found = {}
    wanted = sys.argv[2:] or list(CASES)
    for name in wanted:
        case = CASES[name]
        one, two = run(case, None), run(case, strategy)
        before = trained(case.build())
        found[name] = {
            "moved": difference(one[3], before),
            "weights": difference(one[0], two[0]),
            "optimizer": difference(one[2], two[2]),
            "logs": difference(
                *([np.asarray(logs[k]) for k in sorted(logs)] for logs in (one[1], two[1])),
                relative=True,
            ),
            "names": sorted(one[1]) == sorted(two[1]),
        }
        print(name, found[name], flush=True)
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
