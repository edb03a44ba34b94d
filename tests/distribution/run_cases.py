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

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "distillation")]
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import keras  # noqa: E402
from distribution_cases import CASES  # noqa: E402
from small_models import fit, pairs  # noqa: E402

keras.config.disable_traceback_filtering()


def run(case, strategy):
    scope = strategy.scope() if strategy else contextlib.nullcontext()
    with scope:
        distiller = case.build()
    x, y = pairs(rows=case.rows)
    sample_weight = np.linspace(0.5, 2.0, case.rows, dtype="float32") if case.weighted else None
    if case.labelled:
        y["label"] = np.arange(case.rows) % 4
    history = fit(
        distiller, x, y, batch_size=case.batch_size, epochs=2, sample_weight=sample_weight
    )
    evaluated = distiller.evaluate(
        x, y, batch_size=case.batch_size, sample_weight=sample_weight, verbose=0, return_dict=True
    )
    logs = {**{f"fit {k}": v for k, v in history.items()}, **evaluated}
    weights = [np.asarray(weight) for weight in distiller.get_weights()]
    moments = [np.asarray(v) for v in distiller.optimizer.variables]
    return weights, logs, moments


def difference(one, other):
    return max(float(np.max(np.abs(a - b))) for a, b in zip(one, other, strict=True))


def main():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found = {}
    for name, case in CASES.items():
        one, two = run(case, None), run(case, strategy)
        found[name] = {
            "weights": difference(one[0], two[0]),
            "moved": difference(one[0], [np.asarray(w) for w in case.build().get_weights()]),
            "optimizer": difference(one[2], two[2]),
            "logs": {k: [np.ravel(one[1][k]).tolist(), np.ravel(two[1][k]).tolist()] for k in one[1]},
        }
        print(name, found[name], flush=True)
    Path(sys.argv[1]).write_text(json.dumps(found))


if __name__ == "__main__":
    main()
