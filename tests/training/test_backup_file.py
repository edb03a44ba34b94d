"""The files of a backup: complete, or refused with an error."""

from __future__ import annotations

import json
import resource
import shutil

import keras
import numpy as np
import pytest
from contracts import assert_one_line
from small_models import weights
from test_backup import StopAt, distiller, fit

from kdkeras.errors import InputError
from kdkeras.training import Backup
from kdkeras.training.backup import read_variables, write_variables


@pytest.fixture
def trained():
    model = distiller()
    model.optimizer.build(model.trainable_weights)
    for number, variable in enumerate([*model.variables, *model.optimizer.variables]):
        variable.assign(np.full(variable.shape, number + 1))
    return model


def everything(model):
    return [variable.numpy() for variable in [*model.variables, *model.optimizer.variables]]


def test_all_variables_that_keras_saves_are_restored(trained, tmp_path):
    import h5py

    write_variables(tmp_path / "kept", trained)
    other = distiller()
    other.optimizer.build(other.trainable_weights)
    read_variables(tmp_path / "kept", other)
    for one, two in zip(everything(trained), everything(other), strict=True):
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    trained.save_weights(tmp_path / "keras.weights.h5")
    names = []
    with h5py.File(tmp_path / "keras.weights.h5") as file:
        file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    assert len(names) == len(everything(trained))


def test_bfloat16_is_restored_bit_for_bit(tmp_path):
    def model(value):
        layer = keras.layers.Dense(3, dtype="bfloat16", kernel_initializer=value)
        made = keras.Sequential([keras.Input((2,)), layer])
        made.compile("adam", "mse")
        made.optimizer.build(made.trainable_weights)
        return made

    write_variables(tmp_path / "kept", model(keras.initializers.Constant(1 / 3)))
    other = model("zeros")
    read_variables(tmp_path / "kept", other)
    assert str(other.variables[0].numpy().dtype) == "bfloat16"
    np.testing.assert_allclose(other.variables[0].numpy().astype("float32"), 1 / 3, rtol=2**-8)


def test_a_full_disk_leaves_the_last_backup_complete(tmp_path):
    backup = Backup(tmp_path / "backup", every=1)

    class FullAfter(keras.callbacks.Callback):
        """From the third batch on, files are limited to 100 bytes, as on a full disk."""

        def on_train_batch_begin(self, batch, logs=None):
            if batch == 2:
                resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(InputError) as error:
            fit(distiller(), backup, FullAfter())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert_one_line(str(error.value), "must be writable", "3.safetensors", "Free some space")
    assert {p.name for p in (tmp_path / "backup").iterdir()} == {"state.json", "2.safetensors"}
    again = distiller()
    fit(again, tmp_path / "backup")
    uninterrupted = distiller()
    fit(uninterrupted, tmp_path / "uninterrupted")
    for one, two in zip(weights(again), weights(uninterrupted), strict=True):
        np.testing.assert_array_equal(one, two)


@pytest.fixture(scope="module")
def stopped_once(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped") / "backup"
    fit(distiller(), folder, StopAt(2))
    return folder


@pytest.fixture
def stopped(stopped_once, tmp_path):
    """A backup of two steps, to be damaged."""
    return shutil.copytree(stopped_once, tmp_path / "backup")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"step": 2}'])
def test_a_damaged_state_is_refused_and_named(content, stopped):
    (stopped / "state.json").write_text(content)
    with pytest.raises(InputError) as error:
        fit(distiller(), stopped)
    assert_one_line(str(error.value), "state.json", "overwrite=True")


@pytest.mark.parametrize("name", ["step", "epoch", "batch"])
def test_an_edited_state_is_refused(name, stopped):
    state = json.loads((stopped / "state.json").read_text())
    (stopped / "state.json").write_text(json.dumps({**state, name: state[name] + 1}))
    with pytest.raises(InputError, match="complete and unchanged"):
        fit(distiller(), stopped)


def test_changed_variables_of_the_same_length_are_refused(stopped):
    content = bytearray((stopped / "2.safetensors").read_bytes())
    content[-1] ^= 1
    (stopped / "2.safetensors").write_bytes(content)
    with pytest.raises(InputError, match="2.safetensors.*changed"):
        fit(distiller(), stopped)


def test_a_folder_of_the_users_files_is_refused_and_unchanged(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"mine")
    with pytest.raises(InputError) as error:
        fit(distiller(), tmp_path)
    assert_one_line(str(error.value), "'model.safetensors'", "another folder")
    assert (tmp_path / "model.safetensors").read_bytes() == b"mine"


def test_overwriting_refuses_a_folder_with_other_files(stopped):
    (stopped / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="'notes.txt'"):
        Backup(stopped).open(resume=False, overwrite=True)
    assert (stopped / "state.json").is_file()


def test_finish_deletes_only_what_the_backup_wrote(stopped):
    backup = Backup(stopped)
    fit(distiller(), backup)
    (stopped / "notes.txt").write_text("mine")
    backup.finish()
    assert [path.name for path in stopped.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("keep", [0, 7, 200, -3])
def test_truncated_variables_are_refused_and_named(keep, stopped):
    path = stopped / "2.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError) as error:
        fit(distiller(), stopped)
    assert_one_line(str(error.value), "2.safetensors", "overwrite=True")


def test_variables_of_another_model_are_refused(trained, tmp_path):
    write_variables(tmp_path / "kept", trained)
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    other.compile("adam", "mse")
    with pytest.raises(InputError) as error:
        read_variables(tmp_path / "kept", other)
    assert_one_line(str(error.value), "of the same model", "17 variables")
