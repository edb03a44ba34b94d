"""Loading saved students, and refusing damaged or malicious files."""

from __future__ import annotations

import json
import pickle
import zipfile

import keras
import numpy as np
import pytest
from contracts import assert_one_line

import kdkeras
from kdkeras.errors import InputError
from kdkeras.students import StaticStudent


@pytest.fixture
def saved(vocabulary, tmp_path):
    """The file of a student with a vocabulary."""
    path = tmp_path / "student.keras"
    StaticStudent(vocabulary.size, 3, 2, vocabulary=vocabulary).save(path)
    return path


def changed(path, **parts):
    """Replaces files of the archive by other bytes, or removes them (None)."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    for name, data in parts.items():
        key = next(file for file in files if file.replace(".", "_").endswith(name))
        files[key] = data(files[key]) if callable(data) else data
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in files.items():
            if data is not None:
                archive.writestr(name, data)
    return path


def refused(path, *parts):
    with pytest.raises(InputError) as error:
        kdkeras.load(path)
    assert_one_line(str(error.value), str(path), *parts)


def test_load_returns_the_saved_student(saved, held_out):
    student, texts = kdkeras.load(str(saved)), held_out["de"][0][:4]
    assert isinstance(student, StaticStudent)
    assert student.encode(texts).shape == (4, 3)


def test_from_preset_loads_the_student_of_a_file_and_refuses_other_models(saved, tmp_path):
    assert isinstance(kdkeras.from_preset(saved), StaticStudent)
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)]).save(tmp_path / "other.keras")
    with pytest.raises(InputError) as error:
        kdkeras.from_preset(tmp_path / "other.keras")
    assert_one_line(str(error.value), "a Sequential", "kdkeras.load")
    with pytest.raises(InputError, match="no-such-student"):
        kdkeras.from_preset("no-such-student")


def test_a_missing_file_is_refused(tmp_path):
    refused(tmp_path / "nothing.keras", "existing file")


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95], ids=["empty", "half", "without_index"])
def test_a_truncated_file_is_refused(saved, share):
    data = saved.read_bytes()
    saved.write_bytes(data[: int(share * len(data))])
    refused(saved, "damaged", "student.save")


def test_flipped_bytes_are_refused(saved):
    with zipfile.ZipFile(saved) as archive:
        start = archive.getinfo("model.weights.h5").header_offset + 200
    data = bytearray(saved.read_bytes())
    data[start : start + 400] = bytes(255 - byte for byte in data[start : start + 400])
    saved.write_bytes(bytes(data))
    refused(saved)


@pytest.mark.parametrize("part", ["config_json", "model_weights_h5", "sentencepiece_model"])
@pytest.mark.parametrize("how", ["missing", "nonsense"])
def test_an_archive_with_a_damaged_file_is_refused(saved, part, how):
    refused(changed(saved, **{part: None if how == "missing" else b"Tom"}))


def test_weights_of_another_size_are_refused(saved):
    def wider(config):
        data = json.loads(config)
        data["config"]["embedding_dim"] = 5
        return json.dumps(data).encode()

    refused(changed(saved, config_json=wider))


class Touch:
    """Unpickling this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_pickle_is_refused_and_not_opened(tmp_path):
    path, proof = tmp_path / "unknown.keras", tmp_path / "ran"
    path.write_bytes(pickle.dumps(Touch(proof)))
    refused(path, "another format")
    assert not proof.exists()


def test_a_lambda_layer_is_refused(tmp_path):
    path = tmp_path / "unknown.keras"
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: x * 2)])
    model.save(path)
    refused(path, "safe mode", "ambda")


@pytest.mark.parametrize(
    ("module", "name", "config"),
    [
        ("subprocess", "Popen", {"args": ["touch", "PROOF"]}),
        ("os", "system", {"command": "touch PROOF"}),
        ("builtins", "eval", {"source": "open('PROOF', 'w')"}),
        ("keras.src.utils.file_utils", "makedirs", {"path": "PROOF"}),
    ],
)
def test_other_classes_are_refused_and_not_called(saved, tmp_path, module, name, config):
    proof = tmp_path / "ran"
    config = {
        key: json.loads(json.dumps(v).replace("PROOF", str(proof))) for key, v in config.items()
    }
    spec = {"module": module, "class_name": name, "config": config, "registered_name": name}
    refused(changed(saved, config_json=json.dumps(spec).encode()))
    assert not proof.exists()


def test_loading_a_refused_file_changes_nothing(saved):
    before = saved.read_bytes()
    changed(saved, config_json=b"Tom")
    damaged = saved.read_bytes()
    refused(saved)
    assert saved.read_bytes() == damaged != before
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


def test_saving_again_replaces_a_student(saved):
    student = kdkeras.load(saved)
    student.projection.bias.assign_add([1.0, 2.0, 3.0])
    student.save(saved)
    np.testing.assert_array_equal(kdkeras.load(saved).projection.bias, student.projection.bias)
