"""Trains Keras' Distiller with one replica and with two, and prints the results as JSON.

    python run_keras_distiller.py

A process cannot use a second MirroredStrategy, so all runs share one, in a
process of their own.
"""

from __future__ import annotations

import contextlib
import json

import numpy as np
import tensorflow as tf

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)

import keras  # noqa: E402
from keras.distillation import FeatureDistillation  # noqa: E402

from kdkeras.losses import EmbeddingDistillation, SimilarityDistillation  # noqa: E402


def dense(seed):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    generator = np.random.default_rng(seed)
    model.set_weights([generator.normal(size=w.shape) for w in model.get_weights()])
    return model


def projected():
    loss = EmbeddingDistillation("mse", projection=(3, 3))
    loss.set_weights([np.random.default_rng(2).normal(size=(3, 3))])
    return loss


# Distillation losses, and the loss on labels.
LOSSES = {
    "strings": lambda: (FeatureDistillation("mse"), "mse"),
    "instances": lambda: (
        FeatureDistillation(keras.losses.MeanSquaredError()),
        keras.losses.MeanSquaredError(),
    ),
    "ours": lambda: (
        [EmbeddingDistillation(), SimilarityDistillation(0.5), projected()],
        keras.losses.MeanSquaredError(),
    ),
}


def run(build, strategy):
    with strategy.scope() if strategy else contextlib.nullcontext():
        losses, task = build()
        model = keras.distillation.Distiller(dense(0), dense(1), losses, student_loss_weight=0.5)
        model.compile(keras.optimizers.SGD(0.1), loss=task, jit_compile=False)
    x, y = (np.random.default_rng(7).normal(size=(8, n)).astype("float32") for n in (5, 3))
    before = [np.array(v) for v in model.trainable_variables]
    logs = model.fit(x, y, batch_size=8, shuffle=False, verbose=0).history
    moved = [np.array(v) - b for v, b in zip(model.trainable_variables, before, strict=True)]
    return moved, {name: values[0] for name, values in logs.items()}


def main():
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    seen = {}
    for name, build in LOSSES.items():
        (one, logs), (two, two_logs) = run(build, None), run(build, strategy)
        seen[name] = {
            "variables": len(one),
            "moved": min(float(np.abs(m).max()) for m in one),
            "ratio": float(np.linalg.norm(two[0]) / np.linalg.norm(one[0])),
            "difference": max(float(np.abs(a - b).max()) for a, b in zip(one, two, strict=True)),
            "logs": {key: two_logs[key] / value for key, value in logs.items()},
        }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()
