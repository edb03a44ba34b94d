"""Backup: a training that stops at any batch is resumed to the same model and logs."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts import assert_one_line
from small_models import every_loss, make_distiller, make_two_heads, pairs, weights

from kdkeras.errors import InputError
from kdkeras.optimizers import FusedAdam
from kdkeras.training import Backup

EPOCHS, STEPS = 3, 5


class StopAt(keras.callbacks.Callback):
    """Stops training after some batches, or raises KeyboardInterrupt."""

    def __init__(self, batches, crash=False):
        super().__init__()
        self.left, self.crash = batches, crash

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left <= 0 and self.crash:
            raise KeyboardInterrupt
        if self.left <= 0:
            self.model.stop_training = True


def distiller(**arguments):
    """A Distiller with dropout, a schedule and moments, which a backup must restore."""
    keras.utils.set_random_seed(1)
    schedule = keras.optimizers.schedules.CosineDecay(0.1, decay_steps=EPOCHS * STEPS)
    return make_distiller(
        make_two_heads(dropout=0.3), optimizer=FusedAdam(schedule), **every_loss(), **arguments
    )


def batches():
    """Another order in every epoch."""
    data = tf.data.Dataset.from_tensor_slices(pairs(rows=4 * STEPS))
    return data.shuffle(20, seed=3, reshuffle_each_iteration=True).batch(4)


def fit(model, backup, *callbacks, **arguments):
    backup = backup if isinstance(backup, Backup) else Backup(backup)
    arguments = {"epochs": EPOCHS, "verbose": 0, **arguments}
    return model.fit(batches(), callbacks=[backup, *callbacks], **arguments).history


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    model = distiller()
    logs = fit(model, tmp_path_factory.mktemp("uninterrupted") / "backup")
    return weights(model), logs


def assert_equals_uninterrupted(model, logs, uninterrupted, epochs):
    for one, other in zip(weights(model), uninterrupted[0], strict=True):
        np.testing.assert_array_equal(one, other)
    for name, values in uninterrupted[1].items():
        np.testing.assert_array_equal(logs[name], values[-epochs:], err_msg=name)


@pytest.mark.parametrize("stopped", [1, 5, 12])
def test_a_resumed_training_equals_an_uninterrupted_one(stopped, uninterrupted, tmp_path):
    fit(distiller(), tmp_path / "backup", StopAt(stopped))
    assert json.loads((tmp_path / "backup" / "state.json").read_text())["step"] == stopped
    model = distiller()
    logs = fit(model, tmp_path / "backup")
    assert_equals_uninterrupted(model, logs, uninterrupted, EPOCHS - stopped // STEPS)


def test_after_a_crash_training_continues_from_the_last_backup(uninterrupted, tmp_path):
    backup = Backup(tmp_path / "backup", every=3)
    with pytest.raises(KeyboardInterrupt):
        fit(distiller(), backup, StopAt(10, crash=True))
    assert backup.step == 8  # The third batch of the second epoch, which did not end.
    model = distiller()
    logs = fit(model, Backup(tmp_path / "backup", every=3))
    assert_equals_uninterrupted(model, logs, uninterrupted, 2)


def test_training_can_stop_twice_within_one_epoch(uninterrupted, tmp_path):
    for calls in (1, 3):  # Callbacks also count skipped batches.
        fit(distiller(), tmp_path / "backup", StopAt(calls))
    assert json.loads((tmp_path / "backup" / "state.json").read_text())["step"] == 3
    model = distiller()
    assert_equals_uninterrupted(model, fit(model, tmp_path / "backup"), uninterrupted, EPOCHS)


def test_steps_per_execution(tmp_path):
    run = {"steps_per_epoch": 6}
    expected = distiller(steps_per_execution=2)
    fit(expected, tmp_path / "uninterrupted", **run)
    fit(distiller(steps_per_execution=2), tmp_path / "backup", StopAt(4), **run)
    model = distiller(steps_per_execution=2)
    fit(model, tmp_path / "backup", **run)
    for one, other in zip(weights(model), weights(expected), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_finished_training_is_not_repeated(uninterrupted, tmp_path):
    backup = Backup(tmp_path / "backup", every=1)
    fit(distiller(), backup)
    names = {path.name for path in (tmp_path / "backup").iterdir()}
    assert names == {"state.json", "15.safetensors"}  # Only the last one.
    again = distiller()
    fit(again, tmp_path / "backup")
    assert int(again.optimizer.iterations.numpy()) == EPOCHS * STEPS
    for one, other in zip(weights(again), uninterrupted[0], strict=True):
        np.testing.assert_array_equal(one, other)


def test_finish_returns_the_history_and_deletes_the_backup(tmp_path):
    backup = Backup(tmp_path / "backup")
    logs = fit(distiller(), backup)
    entries = backup.finish(tmp_path / "history.json")
    assert json.loads((tmp_path / "history.json").read_text()) == entries
    assert [entry["step"] for entry in entries] == [5, 10, 15]
    assert [entry["loss"] for entry in entries] == logs["loss"]
    assert not (tmp_path / "backup").exists()


def in_callback_list(backup):
    model = distiller()
    callbacks = keras.callbacks.CallbackList([backup], model=model, epochs=1)
    model.fit(batches(), callbacks=callbacks, verbose=0)


def of_plain_model(backup):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.ones((2, 2)), np.ones((2, 1)), callbacks=[backup], verbose=0)


def test_unusable_arguments_are_refused(tmp_path):
    x, y = pairs()
    cases = {
        "needs a tf.data.Dataset. Received: dict": lambda: distiller().fit(
            x, y, callbacks=[Backup(tmp_path / "b")]
        ),
        "Received: a dataset of unknown length": lambda: distiller().fit(
            batches().filter(lambda *_: True), callbacks=[Backup(tmp_path / "b")]
        ),
        "an integer of at least 1. Received: every=0": lambda: Backup(tmp_path, every=0),
        "Received: Backup in a CallbackList": lambda: in_callback_list(Backup(tmp_path / "b")),
        "keeps the training of a Distiller. Received: Sequential": lambda: of_plain_model(
            Backup(tmp_path / "b")
        ),
    }
    for text, call in cases.items():
        with pytest.raises(InputError) as error:
            call()
        assert_one_line(str(error.value), text)
    fit(distiller(), Backup(tmp_path / "b", settings={"seed": 1}), StopAt(2))
    with pytest.raises(InputError, match="seed=2, before seed=1"):
        Backup(tmp_path / "b", settings={"seed": 2}).open()
