"""Trains in three stages with a backup, for a test that kills it.

python run_stages.py FOLDER WEIGHTS.npz
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parent)]

import keras  # noqa: E402
import tensorflow as tf  # noqa: E402
from small_models import every_loss, fit_stages, make_distiller, make_student, pairs  # noqa: E402

from kdkeras.distillation import RunningMagnitude  # noqa: E402
from kdkeras.optimizers import FusedAdam  # noqa: E402
from kdkeras.schedules import LinearDecay  # noqa: E402
from kdkeras.training import Backup, Stage  # noqa: E402

FIRST, SECOND, THIRD = 40, 60, 150


def main():
    keras.utils.set_random_seed(1)
    distiller = make_distiller(
        make_student(), FusedAdam(0.01), **every_loss(), balancing=RunningMagnitude()
    )
    data = tf.data.Dataset.from_tensor_slices(pairs(rows=40))
    data = data.shuffle(40, seed=3, reshuffle_each_iteration=True).batch(4)
    stages = [
        Stage(steps=FIRST, loss_weights={"embedding": 1.0}, learning_rate=0.05),
        Stage(steps=SECOND, frozen=["token_embedding"]),
        Stage(steps=THIRD, loss_weights={"similarity": LinearDecay(1.0, 0.5, 150), "ranking": 1.0}),
    ]
    fit_stages(distiller, data, stages, backup=Backup(sys.argv[1], every=3), verbose=0)
    arrays = [*distiller.get_weights(), *(v.numpy() for v in distiller.optimizer.variables)]
    np.savez(sys.argv[2], *arrays)


if __name__ == "__main__":
    main()
