"""A saved Distiller continues as if it had not been interrupted."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from small_models import (
    assert_equal_weights,
    every_loss,
    fit,
    make_distiller,
    make_student,
    make_two_heads,
    one_side,
    pairs,
    randomized,
    weights,
)

import kdkeras
from kdkeras.distillation import RunningMagnitude, UncertaintyWeighting
from kdkeras.losses import (
    EmbeddingDistillation,
    Matryoshka,
    MatryoshkaAlignment,
    QueueDistillation,
    TranslationRanking,
)
from kdkeras.optimizers import FusedAdam
from kdkeras.schedules import LinearDecay, LinearWarmup
from kdkeras.students import StaticStudent, TransformerStudent


def optimizer():
    """Moments, a schedule, weight decay and averages: every kind of state."""
    schedule = keras.optimizers.schedules.CosineDecay(0.1, 20)
    return FusedAdam(schedule, weight_decay=0.01, use_ema=True, ema_momentum=0.9)


def transformer():
    return randomized(TransformerStudent(7, 3, 1, 4, 2, 6, dropout=0.3))


def losses_with_states():
    """A queue, a rotation inside a wrapper, and weights that change with the step."""
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    prefixes = Matryoshka(EmbeddingDistillation(), [2, 3], rotation=rotation)
    ranking = MatryoshkaAlignment(TranslationRanking(scale=3.0), [2, 3])
    return {
        "distillation_losses": {"queue": QueueDistillation(3, 6, 0.5), "prefixes": prefixes},
        "alignment_losses": {"ranking": ranking},
        "loss_weights": {
            "prefixes": LinearWarmup(2.0, 6, initial=0.5),
            "ranking": LinearDecay(1.0, 0.3, 20),
        },
    }


@pytest.mark.parametrize("balancing", [RunningMagnitude, UncertaintyWeighting])
def test_training_continues_bit_for_bit(balancing, tmp_path):
    x, y = pairs(rows=8)
    keras.utils.set_random_seed(1)
    losses = losses_with_states()
    distiller = make_distiller(transformer(), optimizer(), balancing=balancing(), **losses)
    fit(distiller, x, y, epochs=2)
    distiller.save(tmp_path / "distiller.keras")
    fit(distiller, x, y, epochs=2)
    resumed = kdkeras.load(tmp_path / "distiller.keras")
    assert np.abs(resumed.distillation_losses["queue"].queue.numpy()).sum(axis=1).min() > 0
    logs = fit(resumed, x, y, epochs=2)
    assert int(resumed.optimizer.iterations) == int(distiller.optimizer.iterations) == 8
    assert_equal_weights(weights(resumed), weights(distiller))
    assert_equal_weights(
        [v.numpy() for v in resumed.optimizer.variables],
        [v.numpy() for v in distiller.optimizer.variables],
    )
    assert logs == distiller.history.history
    for name, schedule in losses["loss_weights"].items():
        assert resumed.term_weights[name].get_config() == schedule.get_config()


def test_configuration_is_restored(tmp_path):
    distiller = make_distiller(name="own", **every_loss())
    distiller.save(tmp_path / "distiller.keras")
    copy = kdkeras.load(tmp_path / "distiller.keras")
    assert copy.name == "own"
    assert dict(copy.term_weights) == dict(distiller.term_weights)
    for losses in ("distillation_losses", "alignment_losses"):
        ours, theirs = getattr(distiller, losses), getattr(copy, losses)
        assert {k: v.get_config() for k, v in ours.items()} == {
            k: v.get_config() for k, v in theirs.items()
        }
    assert copy.evaluate(*pairs(), verbose=0) == distiller.evaluate(*pairs(), verbose=0)


def test_task_loss_and_metrics_are_restored(tmp_path):
    x, y = pairs()
    y["label"] = np.array([0, 3, 1, 1])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller = make_distiller(make_two_heads(), loss=loss, metrics=["accuracy"])
    fit(distiller, x, y)
    distiller.save(tmp_path / "distiller.keras")
    copy = kdkeras.load(tmp_path / "distiller.keras")
    assert copy.evaluate(x, y, verbose=0, return_dict=True) == distiller.evaluate(
        x, y, verbose=0, return_dict=True
    )


def test_the_vocabulary_of_the_student_is_saved(vocabulary, held_out, tmp_path):
    student = StaticStudent(vocabulary.size, 3, 2, vocabulary=vocabulary)
    make_distiller(student).save(tmp_path / "distiller.keras")
    copy = kdkeras.load(tmp_path / "distiller.keras").student
    sentences = held_out["de"][0][:3]
    np.testing.assert_array_equal(copy.encode(sentences), student.encode(sentences))


def test_model_checkpoint_saves_the_weights(tmp_path):
    x, y = pairs()
    distiller = make_distiller()
    path = tmp_path / "distiller.weights.h5"
    checkpoint = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
    fit(distiller, x, y, callbacks=[checkpoint])
    copy = make_distiller(make_student(seed=3))
    copy.load_weights(path)
    np.testing.assert_array_equal(copy.student(one_side(x)), distiller.student(one_side(x)))
