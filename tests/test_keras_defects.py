"""Defects of `keras.distillation` in Keras 3.15: each test states the correct behavior.

The tests are expected to fail (strict). If one passes, Keras has fixed the
defect: remove the test, the workaround, and its mention in the documentation.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import h5py
import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from keras.distillation import DistillationLoss, Distiller, FeatureDistillation, LogitsDistillation

FEATURES, CLASSES = 5, 4


def defect(reason, raises=AssertionError):
    """Expects a failure of this kind; any other is an error of the test."""
    return pytest.mark.xfail(strict=True, reason=f"Keras 3.15: {reason}", raises=raises)


def values(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def randomized(model, seed=0):
    model.set_weights([values(*w.shape, seed=seed) for w in model.get_weights()])
    return model


def dense(width=CLASSES, seed=0, features=FEATURES, dtype="float32", **arguments):
    """A model with one Dense layer."""
    inputs = keras.Input((features,), dtype=dtype)
    hidden = keras.layers.Identity(dtype="float32")(inputs)
    outputs = keras.layers.Dense(width, name="head", **arguments)(hidden)
    return randomized(keras.Model(inputs, outputs), seed)


def mean_squared():
    return keras.losses.MeanSquaredError()


def distilled(teacher=None, student=None, loss=None, optimizer=None, **arguments):
    """A compiled Distiller, with losses that are not affected by the defects."""
    loss = loss or FeatureDistillation(mean_squared())
    distiller = Distiller(teacher or dense(seed=1), student or dense(), loss, **arguments)
    distiller.compile(
        optimizer or keras.optimizers.SGD(0.1), loss=mean_squared(), jit_compile=False
    )
    return distiller


def fit(distiller, **arguments):
    x, y = values(8, FEATURES), values(8, CLASSES, seed=3)
    return distiller.fit(x, y, batch_size=8, verbose=0, **arguments).history


# ---- the default loss on logits ----------------------------------------------


@defect("LogitsDistillation() computes the divergence of raw logits")
def test_default_on_logits_is_the_divergence_of_softened_probabilities():
    teacher, student = values(6, CLASSES, seed=1), values(6, CLASSES, seed=2)
    value = LogitsDistillation(temperature=3.0).compute_loss(teacher, student)
    assert float(value) == pytest.approx(oracles.soft_targets(teacher, student, 3.0).mean(), 1e-3)


def divergences_of_training(loss):
    """The true divergence of a student's logits before and after 500 steps of Adam."""
    teacher, student = values(6, CLASSES, seed=1), keras.Variable(values(6, CLASSES, seed=2))
    optimizer = keras.optimizers.Adam(0.05)
    found = [oracles.soft_targets(teacher, student.numpy(), 3.0).mean()]

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            value = loss.compute_loss(teacher, student)
        optimizer.apply([tape.gradient(value, student.value)], [student])

    optimizer.build([student])
    for _ in range(500):
        step()
    return [*found, oracles.soft_targets(teacher, student.numpy(), 3.0).mean()]


@defect("500 steps on LogitsDistillation() do not move a student to its teacher")
def test_training_on_logits_moves_to_the_teacher():
    before, after = divergences_of_training(LogitsDistillation(temperature=3.0))
    assert after < 0.1 * before


def test_training_on_logits_with_a_loss_instance_moves_to_the_teacher():
    loss = LogitsDistillation(temperature=3.0, loss=keras.losses.KLDivergence())
    before, after = divergences_of_training(loss)
    assert after < 0.1 * before


# ---- two replicas ----------------------------------------------------------------


@pytest.fixture(scope="module")
def two_replicas():
    """Steps and logs of two replicas, relative to those of one."""
    script = Path(__file__).parent / "distillation" / "run_keras_distiller.py"
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


@defect("two replicas make a step twice as large with losses given as strings")
def test_two_replicas_step_as_one_with_losses_by_name(two_replicas):
    assert two_replicas["strings"]["ratio"] == pytest.approx(1.0, 1e-3)


@defect("two replicas report half of each term")
def test_two_replicas_report_the_same_logs_as_one(two_replicas):
    logs = two_replicas["instances"]["logs"]
    assert two_replicas["instances"]["ratio"] == pytest.approx(1.0, 1e-3)
    for name in ("distillation_loss", "student_loss", "total_loss"):
        assert logs[name] == pytest.approx(1.0, 1e-3)


def test_two_replicas_step_as_one_with_our_losses(two_replicas):
    ours = two_replicas["ours"]
    assert ours["variables"] == 3, "kernel, bias and projection"
    assert ours["moved"] > 1e-2 and ours["difference"] < 1e-6


# ---- models that a Distiller refuses -----------------------------------------------------


class Relations(DistillationLoss):
    """Compares cosines between rows: teacher and student may have any widths."""

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        cosines = [
            keras.ops.matmul(x, keras.ops.transpose(x))
            for x in (keras.ops.normalize(y) for y in (teacher_outputs, student_outputs))
        ]
        return keras.ops.mean(keras.ops.square(cosines[0] - cosines[1]))


@defect("teacher and student must have equal widths", ValueError)
def test_student_of_another_width_is_accepted():
    fit(distilled(teacher=dense(width=6, seed=1), loss=Relations()))


@defect("teacher and student must read inputs of one shape", ValueError)
def test_teacher_with_another_number_of_tokens_is_accepted():
    distilled(teacher=dense(features=FEATURES + 2, seed=1))


@defect("teacher and student must read inputs of one type", ValueError)
def test_teacher_with_ids_of_another_dtype_is_accepted():
    distilled(teacher=dense(dtype="int64", seed=1), student=dense(dtype="int32"))


@defect("feature losses find only layers of the outermost model", ValueError)
def test_layer_of_a_nested_model_is_found():
    inputs = keras.Input((FEATURES,))
    nested = keras.Model(inputs, dense()(inputs))
    distilled(student=nested, loss=FeatureDistillation(mean_squared(), "head", "head"))


@defect("there is no training without labels", ValueError)
def test_distiller_without_a_task_loss_compiles():
    Distiller(dense(seed=1), dense(), Relations()).compile("sgd", loss=None)


# ---- what a step omits -----------------------------------------------------------


@defect("sample_weight is ignored")
def test_examples_of_weight_zero_do_not_move_the_student():
    distiller = distilled()
    fit(distiller, sample_weight=np.zeros(8))
    np.testing.assert_array_equal(distiller.student.get_weights()[0], dense().get_weights()[0])


@defect("the student's regularizers are ignored")
def test_regularizers_are_part_of_the_loss():
    student = dense(kernel_regularizer=keras.regularizers.L2(0.1))
    penalty = 0.1 * float(np.square(student.get_weights()[0]).sum())
    with_penalty, without = fit(distilled(student=student)), fit(distilled())
    assert with_penalty["loss"][0] == pytest.approx(without["loss"][0] + penalty, 1e-4)


class Projected(DistillationLoss):
    """Projects the student's embeddings with its own weights."""

    def __init__(self):
        self.projection = keras.layers.Dense(CLASSES)
        self.projection.build((None, CLASSES))

    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        return mean_squared()(teacher_outputs, self.projection(student_outputs))


@defect("weights of a loss are not trained")
def test_weights_of_a_loss_are_trained():
    loss = Projected()
    before = loss.projection.get_weights()[0]
    fit(distilled(loss=loss), epochs=3)
    assert np.abs(loss.projection.get_weights()[0] - before).max() > 0


@defect("with a feature loss, a step runs the student twice")
def test_step_runs_the_student_once():
    calls = []

    class Counting(keras.layers.Dense):
        def call(self, inputs, training=None):
            calls.append(training)
            return super().call(inputs)

    inputs = keras.Input((FEATURES,))
    student = keras.Model(inputs, Counting(CLASSES, name="head")(inputs))
    distiller = distilled(student=student, loss=FeatureDistillation(mean_squared(), "head", "head"))
    distiller.run_eagerly = True
    distiller(values(8, FEATURES))
    calls.clear()
    fit(distiller)
    assert calls == [True]


# ---- saving ------------------------------------------------------------------------------


@defect("a saved Distiller contains the weights of its teacher")
def test_the_teachers_weights_are_not_saved(tmp_path):
    distiller = distilled()
    fit(distiller)
    distiller.save_weights(tmp_path / "distiller.weights.h5")
    found = []
    with h5py.File(tmp_path / "distiller.weights.h5") as file:
        file.visititems(lambda _, item: found.append(item))
        stored = [np.array(item) for item in found if isinstance(item, h5py.Dataset)]
    teacher, student = (m.get_weights()[0] for m in (distiller.teacher, distiller.student))
    assert any(np.array_equal(array, student) for array in stored), "look elsewhere"
    assert not any(np.array_equal(array, teacher) for array in stored)


@defect("a loaded Distiller has no optimizer", AttributeError)
def test_loaded_distiller_has_its_optimizer(tmp_path):
    distiller = distilled(optimizer=keras.optimizers.Adam(0.1))
    fit(distiller)
    distiller.save(tmp_path / "distiller.keras")
    copy = keras.saving.load_model(tmp_path / "distiller.keras")
    assert int(copy.optimizer.iterations) == 1


# ---- losses of a Distiller ---------------------------------------------------


@pytest.mark.parametrize(
    "loss",
    [
        pytest.param(keras.losses.Huber(delta=3.0), id="Huber"),
        pytest.param(keras.losses.CosineSimilarity(axis=1), id="CosineSimilarity"),
    ],
)
@defect("a loss created from its configuration lacks its arguments")
def test_loss_keeps_its_arguments(loss):
    copy = keras.losses.deserialize(keras.losses.serialize(loss))
    teacher, student = values(2, 3, 4, seed=1), 9 * values(2, 3, 4, seed=2)
    assert float(copy(teacher, student)) == pytest.approx(float(loss(teacher, student)), 1e-3)
