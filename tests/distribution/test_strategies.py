"""A strategy is chosen by name or environment; invalid choices are refused in one line."""

from __future__ import annotations

import json

import keras
import pytest
import tensorflow as tf
from small_models import make_distiller, make_student

from kdkeras.distillation.keras_hooks import require_tested_keras
from kdkeras.distribution import choose_strategy, strategies
from kdkeras.errors import InputError


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    """Each test starts in a process without a strategy."""
    monkeypatch.setattr(strategies, "_chosen", strategies._Chosen())
    monkeypatch.delenv("TF_CONFIG", raising=False)
    monkeypatch.delenv("TPU_NAME", raising=False)


def refused(pattern, *arguments):
    with pytest.raises(InputError, match=pattern) as error:
        choose_strategy(*arguments)
    assert "\n" not in str(error.value)


def test_the_default_is_no_strategy():
    strategy = choose_strategy()
    assert strategy.num_replicas_in_sync == 1
    with strategy.scope():
        assert not tf.distribute.has_strategy()


def test_the_same_choice_gives_the_same_strategy():
    assert choose_strategy("none") is choose_strategy("none") is choose_strategy()


def test_a_second_strategy_in_a_process_is_refused():
    choose_strategy("none")
    refused(r"can use only one strategy. Received: 'mirrored', replicas=2", "mirrored", 2)


@pytest.mark.parametrize("name", ["parameter_server", "Mirrored", ""])
def test_an_unknown_name_is_refused(name):
    refused(f"Received: {name!r}.*ParameterServerStrategy and keras.distribution", name)


def test_replicas_of_another_strategy_than_mirrored_are_refused():
    refused("replicas=2 with 'none'", "none", 2)


def test_virtual_devices_after_the_first_operation_are_refused():
    tf.constant(1.0) + 1.0
    refused(r"before the first TensorFlow operation. Received: replicas=2", "mirrored", 2)


def test_multi_worker_needs_tf_config():
    refused("TF_CONFIG. Received: none", "multi_worker")


@pytest.mark.parametrize("text", ["{", "[1]", '{"cluster": 3}'])
def test_an_invalid_tf_config_is_refused(monkeypatch, text):
    monkeypatch.setenv("TF_CONFIG", text)
    refused("`TF_CONFIG` must be JSON with a cluster")


def test_tf_config_with_one_worker_chooses_no_strategy(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": ["localhost:1"]}}))
    assert choose_strategy().num_replicas_in_sync == 1


def test_a_missing_tpu_is_refused():
    refused(r"needs a TPU. Received: TPU_NAME=local \(", "tpu")


def test_an_untested_version_of_keras_is_refused():
    require_tested_keras(keras.__version__)
    with pytest.raises(InputError, match=r"needs Keras 3.15. Received: keras 4.0.1"):
        require_tested_keras("4.0.1")


def test_a_student_built_outside_the_scope_is_refused():
    student = make_student()
    with (
        tf.distribute.OneDeviceStrategy("/cpu:0").scope(),
        pytest.raises(InputError, match=r"created under no strategy, a Distiller under OneDevice"),
    ):
        make_distiller(student)


def test_an_optimizer_built_outside_the_scope_is_refused():
    optimizer = keras.optimizers.SGD()
    with (
        tf.distribute.OneDeviceStrategy("/cpu:0").scope(),
        pytest.raises(InputError, match=r"must belong to the model's strategy"),
    ):
        make_distiller(optimizer=optimizer)


def test_keras_distribution_is_refused():
    student = make_student()
    ignored = keras.distribution.DataParallel(devices=["cpu:0"])
    with (
        ignored.scope(),
        pytest.raises(InputError, match=r"ignores `keras.distribution`. Received: DataParallel"),
    ):
        make_distiller(student)
