"""FusedAdam equals Adam; LazyAdam equals Adam on the rows of the batch."""

from __future__ import annotations

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from contracts import assert_one_line

from kdkeras.errors import InputError
from kdkeras.optimizers import FusedAdam, LazyAdam

# The kernel computes 1 - beta_2 in float32, Keras in float64: 6e-6 of every step.
TOLERANCE = 1e-5

SETTINGS = {
    "defaults": {},
    "rates": {"learning_rate": 0.1, "beta_1": 0.7, "beta_2": 0.9, "epsilon": 1e-2},
    "weight_decay": {"learning_rate": 0.1, "weight_decay": 0.3},
    "clipped": {"learning_rate": 0.1, "global_clipnorm": 0.5},
    "moving_average": {
        "learning_rate": 0.1,
        "use_ema": True,
        "ema_momentum": 0.5,
        "ema_overwrite_frequency": 2,
    },
    "accumulating": {"learning_rate": 0.1, "gradient_accumulation_steps": 2},
}


def trained(optimizer, steps=5):
    """Weights and optimizer state after some steps on random gradients."""
    generator = np.random.default_rng(0)
    shapes = [(4, 3), (3,)]
    variables = [keras.Variable(generator.normal(size=s).astype("float32")) for s in shapes]
    for _ in range(steps):
        optimizer.apply(
            [tf.constant(generator.normal(size=s), tf.float32) for s in shapes], variables
        )
    return [v.numpy() for v in variables], [v.numpy() for v in optimizer.variables]


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_fused_adam_equals_keras_adam(settings):
    for ours, theirs in zip(
        trained(FusedAdam(**settings)), trained(keras.optimizers.Adam(**settings)), strict=True
    ):
        for one, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)


def test_fused_adam_equals_the_paper():
    generator = np.random.default_rng(0)
    expected = generator.normal(size=(4, 3))
    variable, optimizer = keras.Variable(expected.astype("float32")), FusedAdam(0.1)
    moments = (np.zeros((4, 3)), np.zeros((4, 3)))
    for step in range(1, 6):
        slope = generator.normal(size=(4, 3))
        expected, moments = oracles.adam(expected, slope, moments, step, 0.1)
        optimizer.apply([tf.constant(slope, tf.float32)], [variable])
    np.testing.assert_allclose(variable, expected, atol=1e-5)


def test_fused_adam_follows_a_schedule():
    def schedule():
        return keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.5, 0.1, 0.01])

    ours, theirs = (trained(o(schedule()))[0] for o in (FusedAdam, keras.optimizers.Adam))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)


def test_fused_adam_merges_rows_that_repeat():
    rows = tf.IndexedSlices(tf.constant([[1.0], [2.0]]), tf.constant([1, 1]), (3, 1))
    results = []
    for gradient in (rows, tf.convert_to_tensor(rows)):
        variable, optimizer = keras.Variable(np.ones((3, 1), "float32")), FusedAdam(0.1)
        optimizer.apply([gradient], [variable])
        optimizer.apply([2 * tf.convert_to_tensor(gradient)], [variable])
        results.append(variable.numpy())
    np.testing.assert_array_equal(*results)


def test_fused_adam_compiles_with_xla():
    variable, optimizer = keras.Variable(np.ones((3, 1), "float32")), FusedAdam(0.1)
    optimizer.build([variable])
    step = tf.function(lambda g: optimizer.apply([g], [variable]), jit_compile=True)
    step(tf.constant([[1.0], [-1.0], [0.0]]))
    # The first step moves by the learning rate against the gradient's sign.
    np.testing.assert_allclose(variable, [[0.9], [1.1], [1.0]], atol=1e-5)


def test_every_argument_of_fused_adam_survives_serialization():
    arguments = {
        "learning_rate": 0.2,
        "beta_1": 0.8,
        "beta_2": 0.95,
        "epsilon": 1e-4,
        "weight_decay": 0.1,
        "clipnorm": 2.0,
        "use_ema": True,
        "ema_momentum": 0.7,
        "gradient_accumulation_steps": 3,
    }
    optimizer = FusedAdam(**arguments)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert type(copy) is FusedAdam
    for name, value in arguments.items():
        assert np.float32(getattr(copy, name)) == np.float32(value), name


def test_amsgrad_is_refused():
    with pytest.raises(InputError) as error:
        FusedAdam(amsgrad=True)
    assert_one_line(str(error.value), "`amsgrad`", "keras.optimizers.Adam(amsgrad=True)")


def sparse_steps(generator, rows=6, width=3, steps=6):
    """Sparse gradients of a table, with repeated, rare and absent rows."""
    for _ in range(steps):
        indices = generator.choice(rows - 1, 4)
        values = generator.normal(size=(4, width))
        yield tf.IndexedSlices(
            tf.constant(values, tf.float32), tf.constant(indices), tf.constant([rows, width])
        )


def test_lazy_adam_equals_the_paper_on_the_rows_of_the_batch():
    generator = np.random.default_rng(0)
    expected = generator.normal(size=(6, 3))
    variable, optimizer = keras.Variable(expected.astype("float32")), LazyAdam(0.1)
    m, v = np.zeros((6, 3)), np.zeros((6, 3))
    for step, gradient in enumerate(sparse_steps(generator), 1):
        slope = tf.convert_to_tensor(gradient).numpy().astype(float)
        rows = np.unique(gradient.indices)
        expected[rows], (m[rows], v[rows]) = oracles.adam(
            expected[rows], slope[rows], (m[rows], v[rows]), step, 0.1
        )
        optimizer.apply([gradient], [variable])
    np.testing.assert_allclose(variable, expected, atol=1e-5)


def test_lazy_adam_differs_from_adam_for_rows_that_return():
    weights = []
    for make in (LazyAdam, keras.optimizers.Adam):
        generator = np.random.default_rng(0)
        variable, optimizer = keras.Variable(np.ones((6, 3), "float32")), make(0.1)
        for gradient in sparse_steps(generator):
            optimizer.apply(
                [tf.convert_to_tensor(gradient) if make is not LazyAdam else gradient], [variable]
            )
        weights.append(variable.numpy())
    np.testing.assert_array_equal(weights[0][5], weights[1][5])  # Never in a batch.
    assert np.abs(weights[0][:5] - weights[1][:5]).max() > 0.01


def test_lazy_adam_of_a_dense_gradient_equals_adam():
    for one, other in zip(
        trained(LazyAdam(0.1))[0], trained(keras.optimizers.Adam(0.1))[0], strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=0, atol=TOLERANCE)


def test_lazy_adam_survives_serialization():
    optimizer = LazyAdam(0.2, beta_1=0.8, use_ema=True)
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(optimizer))
    assert type(copy) is LazyAdam
    assert (copy.beta_1, copy.use_ema) == (0.8, True)
    assert float(copy.learning_rate) == pytest.approx(0.2)


@pytest.mark.parametrize(
    "unsupported",
    [
        {"amsgrad": True},
        {"weight_decay": 0.1},
        {"clipnorm": 1.0},
        {"clipvalue": 1.0},
        {"global_clipnorm": 1.0},
        {"loss_scale_factor": 2.0},
        {"gradient_accumulation_steps": 2},
    ],
)
def test_lazy_adam_refuses_arguments_that_affect_every_row(unsupported):
    name, value = next(iter(unsupported.items()))
    with pytest.raises(InputError) as error:
        LazyAdam(**unsupported)
    assert_one_line(str(error.value), f"Received: {name}={value}")
