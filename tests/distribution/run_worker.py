"""The training of one worker; without TF_CONFIG the same training on one device.

    python run_worker.py OUTPUT.json FOLDER [sample]

With `sample` the bundled sample is trained on, too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import kdkeras  # noqa: E402

strategy = kdkeras.distribution.choose_strategy()

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402
from small_models import every_loss, make_distiller, make_two_heads, pairs  # noqa: E402

from kdkeras import data, evaluation, replicas, students, training  # noqa: E402
from kdkeras.losses import QueueDistillation  # noqa: E402
from kdkeras.optimizers import FusedAdam, LazyAdam  # noqa: E402
from kdkeras.recipe import Recipe  # noqa: E402
from kdkeras.training import Backup  # noqa: E402
from kdkeras.training.preparation import compiled_distiller  # noqa: E402

OUTPUT, FOLDER = Path(sys.argv[1]), Path(sys.argv[2])
ROWS = 9
CHIEF = replicas.is_chief(strategy)
OPTIMIZERS = {
    "clipped": lambda: keras.optimizers.SGD(0.05, momentum=0.9, global_clipnorm=0.1),
    "FusedAdam": lambda: FusedAdam(0.05),
    "LazyAdam": lambda: LazyAdam(0.05),
}
# Options of the workers; one device runs without them.
OPTIONS = {"FusedAdam": {"jit_compile": True, "steps_per_execution": 2}}


def with_queue():
    """A queue longer than all rows, because two workers enqueue them in another order."""
    return {"distillation_losses": {"queue": QueueDistillation(3, 32, 0.5)}}


def small(optimizer, losses=every_loss, **options):
    """Trains a small model; one worker has no row of the last batch."""
    with strategy.scope():
        task = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        distiller = make_distiller(
            make_two_heads(),
            optimizer=optimizer(),
            loss=task,
            metrics=["accuracy"],
            **options,
            **losses(),
        )
    x, y = pairs(rows=ROWS)
    y["label"] = np.arange(ROWS) % 4
    batches = tf.data.Dataset.from_tensor_slices((x, y, np.linspace(0.5, 2, ROWS, dtype="float32")))
    history = distiller.fit(batches.batch(4), epochs=2, verbose=0).history
    evaluated = distiller.evaluate(batches.batch(4), verbose=0, return_dict=True)
    predicted = distiller.predict(batches.batch(4), verbose=0)["embedding"]
    return {
        "weights": [np.asarray(w).tolist() for w in distiller.trainable_weights],
        "memory": [sorted(np.asarray(w).tolist()) for w in distiller.non_trainable_weights],
        "logs": {**{f"fit {k}": v for k, v in history.items()}, **evaluated},
        "predicted": predicted.tolist(),
    }


def sample():
    """Trains on the bundled sample, with callbacks."""
    folder = data.sample_folder()
    dataset = data.DistillationSet(folder / "distillation_set")
    words = data.load_vocabulary(folder / "vocabulary")
    keras.utils.set_random_seed(0)
    with strategy.scope():
        student = students.build_student(
            "static_128", vocabulary=words, output_dim=dataset.embedding_dim
        )
        weights = {"embedding": 1.0, "ranking": 0.5}
        recipe = Recipe(loss_weights=weights, dims=(), learning_rate=5e-3, warmup=0)
        distiller = compiled_distiller(student, recipe, 8)
    held_out = evaluation.TranslationEvaluator.from_tsv(folder / "held_out" / "de.tsv", "de")
    # A folder per worker, to check which one writes.
    backup = Backup(FOLDER / ("chief" if CHIEF else "other"), every=3)
    history = distiller.fit(
        kdkeras.distribution.distribute_batches(strategy, dataset, 64, words),
        steps_per_epoch=4,
        epochs=2,
        callbacks=[training.EvaluationCallback([held_out]), backup],
        verbose=0,
    )
    if CHIEF:
        student.save(FOLDER / "student.keras")
    return history.history


options = OPTIONS if replicas.num_workers(strategy) > 1 else {}
results = {name: small(make, **options.get(name, {})) for name, make in OPTIMIZERS.items()}
results["queue"] = small(OPTIMIZERS["clipped"], with_queue)
if len(sys.argv) > 3:
    results["sample"] = sample()
OUTPUT.write_text(json.dumps({"chief": CHIEF, **results}))
