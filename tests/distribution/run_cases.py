"""Trains cases with one replica and with two, and writes the differences.

    python run_cases.py OUTPUT.json CASE...

All cases share one MirroredStrategy, because a process cannot use a second one.
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
    """Trains a case; returns its weights, logs, optimizer variables and trained weights."""
    with strategy.scope() if strategy else contextlib.nullcontext():
        distiller = case.build()
    logs = {}
    for rows in case.rows:
        data = batches(case, rows)
        if case.stages:
            history = fit_stages(distiller, data, case.stages, verbose=0).history
        else:
            options = {"epochs": epochs(case), "callbacks": case.callbacks(), "verbose": 0}
            history = distiller.fit(data, **options).history
        logs.update({f"fit {rows} {name}": values for name, values in history.items()})
    evaluated = distiller.evaluate(data, verbose=0, return_dict=True)
    moments = [np.asarray(v) for v in inner(distiller.optimizer).variables]
    weights = [np.asarray(weight) for weight in distiller.get_weights()]
    return weights, {**logs, **evaluated}, moments, trained(distiller)


def epochs(case):
    """One epoch on each of several data sets, or two on a single one."""
    return 2 if len(case.rows) == 1 else 1


def batches(case, rows):
    x, y = pairs(rows=rows)
    y = {} if case.live else y
    if case.targets is not None:
        y.update(case.targets(rows))
    if case.labeled:
        y["label"] = np.arange(rows) % 4
    # Keras drops the weights of arrays if a live teacher computes the targets: a tf.data.Dataset.
    weight = (np.linspace(0.5, 2.0, rows, dtype="float32"),) if case.weighted else ()
    return tf.data.Dataset.from_tensor_slices((x, y, *weight)).batch(case.batch_size)


def trained(distiller):
    """Returns the weights that gradients change, without queues and running magnitudes."""
    return [np.asarray(weight) for weight in distiller.trainable_weights]


def difference(one, other, relative=False):
    """Returns the largest difference; for `relative`, divided by values above 1."""
    return max(
        float(np.max(np.abs(a - b) / (np.maximum(1.0, np.abs(a)) if relative else 1.0)))
        for a, b in zip(one, other, strict=True)
    )


def main():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    found = {}
    for name in sys.argv[2:] or CASES:
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
