"""Schedules: equal to their formulas, and saved with their arguments."""

from __future__ import annotations

import doctest

import keras
import oracles_schedules as oracles
import pytest
import tensorflow as tf
from contracts import assert_one_line

import kdkeras.schedules
from kdkeras.errors import InputError
from kdkeras.schedules import (
    Delayed,
    LinearDecay,
    LinearWarmup,
    Piecewise,
    Rewarmed,
    sampled,
    value_at,
)

STEPS = (0, 1, 3, 4, 5, 9, 10, 11, 1000)
LINEAR = keras.optimizers.schedules.PolynomialDecay(2.0, 4, 0.5)
CASES = {
    "warmup": (LinearWarmup(2.0, 5, initial=0.5), lambda s: oracles.warmup(s, 2.0, 5, 0.5)),
    "warmup from zero": (LinearWarmup(3.0, 4), lambda s: oracles.warmup(s, 3.0, 4)),
    "decay to zero": (LinearDecay(2.0, 0.4, 25), lambda s: oracles.decay_to_zero(s, 2.0, 0.4, 25)),
    "delayed": (Delayed(LINEAR, 3), lambda s: oracles.polynomial(max(0, s - 3), 2.0, 4, 0.5)),
    "rewarmed": (
        Rewarmed(LINEAR, start=1, steps=2, fraction=0.25),
        lambda s: (0.25 + 0.75 * min(s / 2, 1)) * oracles.polynomial(s + 1, 2.0, 4, 0.5),
    ),
    "piecewise": (
        Piecewise([4, 10], [1.5, LINEAR, Delayed(LinearWarmup(1.0, 8), 10)]),
        lambda s: (
            1.5
            if s < 4
            else oracles.polynomial(s, 2.0, 4, 0.5)
            if s < 10
            else oracles.warmup(s - 10, 1.0, 8)
        ),
    ),
    "Keras' linear": (LINEAR, lambda s: oracles.polynomial(s, 2.0, 4, 0.5)),
    "Keras' cosine": (
        keras.optimizers.schedules.CosineDecay(2.0, 10, alpha=0.1),
        lambda s: oracles.cosine(s, 2.0, 10, 0.1),
    ),
}
every_case = pytest.mark.parametrize("case", CASES)


@every_case
def test_equals_the_formula_at_every_step_in_xla(case):
    schedule, oracle = CASES[case]
    compiled = tf.function(lambda step: value_at(schedule, step), jit_compile=True)
    for step in STEPS:
        value = compiled(tf.constant(step, tf.int64))
        assert value.dtype == tf.float32
        assert float(value) == pytest.approx(oracle(step), abs=1e-6)


@every_case
def test_every_argument_survives_serialization(case):
    schedule, _ = CASES[case]
    data = keras.saving.serialize_keras_object(schedule)
    copy = keras.saving.deserialize_keras_object(data)
    assert type(copy) is type(schedule) and copy.get_config() == schedule.get_config()
    assert [float(copy(s)) for s in STEPS] == [float(schedule(s)) for s in STEPS]


@every_case
def test_sampled_steps_include_the_extremes(case):
    schedule, oracle = CASES[case]
    values = [value for _, value in sampled(schedule)]
    assert min(values) == pytest.approx(min(map(oracle, range(100))), abs=1e-6)
    assert max(values) == pytest.approx(max(map(oracle, range(100))), abs=1e-6)


def test_float_is_the_same_at_every_step():
    assert value_at(0.3, None) == value_at(0.3, 7) == 0.3


def test_optimizer_takes_a_schedule():
    rate = Piecewise([2], [0.5, LinearDecay(1.0, 1.0, 10)])
    optimizer, variable = keras.optimizers.SGD(rate), keras.Variable([0.0])
    for expected in (-0.5, -1.0, -1.8, -2.5):
        optimizer.apply([tf.constant([1.0])], [variable])
        assert float(variable.value[0]) == pytest.approx(expected)


BAD = {
    "no steps": (lambda: LinearWarmup(1.0, 0), "`steps` must be", "steps=0", "updates"),
    "half a step": (lambda: LinearWarmup(1.0, 2.5), "steps=2.5"),
    "no total steps": (lambda: LinearDecay(1.0, 0.5, 0), "total_steps=0"),
    "fraction of 0": (lambda: LinearDecay(1.0, 0.0, 10), "fraction=0.0", "above 0"),
    "fraction above 1": (lambda: LinearDecay(1.0, 1.5, 10), "fraction=1.5"),
    "negative start": (lambda: Delayed(1.0, -1), "start=-1"),
    "falling boundaries": (lambda: Piecewise([5, 3], [1, 2, 3]), "boundaries=[5, 3]"),
    "a value too few": (lambda: Piecewise([5], [1.0]), "1 values"),
    "no step": (lambda: value_at(LINEAR, None), "PolynomialDecay and no step", "step="),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(case):
    act, *parts = BAD[case]
    with pytest.raises(InputError) as error:
        act()
    assert_one_line(str(error.value), *parts)


def test_docstring_examples_run():
    results = doctest.testmod(kdkeras.schedules)
    assert results.failed == 0 and results.attempted >= 4
