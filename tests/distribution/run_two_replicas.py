"""Examines a strategy of two replicas and prints the findings as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import kdkeras  # noqa: E402

choose_strategy = kdkeras.distribution.choose_strategy
strategy = choose_strategy("mirrored", 2)

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from small_models import every_loss, make_distiller  # noqa: E402

from kdkeras.distillation.keras_hooks import differ_by_replica  # noqa: E402
from kdkeras.errors import InputError  # noqa: E402


def refusal(**optimizer):
    try:
        with strategy.scope():
            make_distiller(optimizer=keras.optimizers.SGD(**optimizer), **every_loss())
    except InputError as error:
        return str(error)
    return None


def dropped(model):
    run = tf.function(lambda: model(tf.ones((1, 64)), training=True))
    both = strategy.experimental_local_results(strategy.run(run))
    return [np.asarray(one).astype(bool).tolist() for one in both]


with strategy.scope():
    model = keras.Sequential([keras.Input((64,)), keras.layers.Dropout(0.5, seed=1)])
stock = dropped(model)
differ_by_replica(model)
found = {
    "replicas": strategy.num_replicas_in_sync,
    "same": choose_strategy("mirrored", 2) is strategy is choose_strategy(),
    "accumulation": refusal(gradient_accumulation_steps=2),
    "masks of Keras": stock,
    "masks": dropped(model),
}
print(json.dumps(found))
