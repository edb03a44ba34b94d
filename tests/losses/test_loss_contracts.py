"""What every loss has to show."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts import assert_config_round_trip, assert_one_line, value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from loss_cases import ALIGNMENT, ARGUMENTS, DISTILLATION

import kdkeras.losses
from kdkeras.errors import InputError
from kdkeras.losses import EmbeddingDistillation, SoftTargets

every_loss = pytest.mark.parametrize("case", [*DISTILLATION, *ALIGNMENT], ids=lambda c: c.name)
distillation = pytest.mark.parametrize("case", DISTILLATION, ids=lambda c: c.name)


def test_every_exported_loss_is_in_the_table():
    exported = {getattr(kdkeras.losses, name) for name in kdkeras.losses.__all__}
    bases = {kdkeras.losses.AlignmentLoss, kdkeras.losses.DistillationLoss}
    assert exported - bases == set(ARGUMENTS)
    cases = {type(getattr(c.loss, "func", c.loss)) for c in [*DISTILLATION, *ALIGNMENT]}
    assert cases == set(ARGUMENTS)


@pytest.mark.parametrize("loss", ARGUMENTS, ids=lambda c: c.__name__)
def test_configuration_survives(loss):
    assert_config_round_trip(loss, ARGUMENTS[loss])


@every_loss
def test_equals_oracle(case):
    values = case.loss(*case.inputs())
    assert values.dtype == tf.float32 and values.shape == (4,)
    np.testing.assert_allclose(values, case.oracle(*case.inputs()), rtol=1e-5, atol=1e-5)


elements = st.floats(-3, 3, width=32)


@every_loss
@settings(max_examples=10, deadline=None)
@given(values=arrays(np.float32, (2, 60), elements=elements))
def test_equals_oracle_on_any_vectors(case, values):
    teacher, student = values[:, : np.prod(case.shape)].reshape(2, *case.shape)
    # Away from the zero vector, which has no direction to compare.
    teacher[..., 0], student[..., 0] = teacher[..., 0] + 4, student[..., 0] - 4
    if case.name.startswith("relational"):
        # Away from equal vectors, too: from one to the other there is no direction.
        teacher[:, 1:] += 8 * np.eye(4, dtype="float32")
        student[:, 1:] -= 8 * np.eye(4, dtype="float32")
    np.testing.assert_allclose(
        case.loss(teacher, student), case.oracle(teacher, student), rtol=1e-4, atol=1e-4
    )


@every_loss
def test_xla_gives_equal_numbers(case):
    teacher, student = map(tf.constant, case.inputs())
    compiled = tf.function(lambda t, s: case.loss(t, s), jit_compile=True)
    np.testing.assert_allclose(compiled(teacher, student), case.loss(teacher, student), atol=1e-5)


@distillation
def test_minimum_is_where_the_student_is_the_teacher(case):
    teacher, _ = case.inputs()
    values, slope = value_and_gradient(case.loss, teacher, teacher)
    np.testing.assert_allclose(values, 0, atol=1e-6)
    np.testing.assert_allclose(slope, 0, atol=1e-6)


@distillation
def test_away_from_the_teacher_is_worse(case):
    teacher, _ = case.inputs()
    moved = teacher.copy()
    moved[0, ..., 0] += 1.0  # One row: relations do not see what moves all.
    assert case.loss(teacher, moved).numpy().max() > 1e-3


@every_loss
def test_gradient_step_lowers_the_true_loss(case):
    teacher, student = case.inputs()
    _, slope = value_and_gradient(case.loss, teacher, student)
    before, after = (case.oracle(teacher, s).sum() for s in (student, student - 0.01 * slope))
    assert after < before - 1e-5


@distillation
def test_no_gradient_reaches_the_teacher(case):
    teacher, student = map(tf.constant, case.inputs())
    with tf.GradientTape() as tape:
        tape.watch([teacher, student])
        values = case.loss(teacher, student)
    to_teacher, to_student = tape.gradient(values, [teacher, student])
    assert to_teacher is None and np.abs(to_student).max() > 0


# The angles of `to_three` point to the first three rows.
UNORDERED = [c for c in [*DISTILLATION, ALIGNMENT[0]] if c.name != "relational_angle_to_three"]


@pytest.mark.parametrize("case", UNORDERED, ids=lambda c: c.name)
def test_order_of_the_batch_does_not_matter(case):
    (teacher, student), order = case.inputs(), [2, 0, 3, 1]
    np.testing.assert_allclose(
        case.loss(teacher[order], student[order]),
        case.loss(teacher, student).numpy()[order],
        atol=1e-5,
    )


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@every_loss
def test_huge_half_precision_inputs_stay_finite(case, dtype):
    signs = [np.where(values > 0, 1e4, -1e4) for values in case.inputs()]
    teacher, student = (tf.cast(values, dtype) for values in signs)
    values, slope = value_and_gradient(case.loss, teacher, student)
    assert values.dtype == np.float32
    assert np.isfinite(values).all() and np.isfinite(slope).all()
    expected = case.oracle(*(tf.cast(v, "float64").numpy() for v in (teacher, student)))
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "case",
    [c for c in [*DISTILLATION, *ALIGNMENT] if not c.name.startswith(("soft", "mse", "correl"))],
    ids=lambda c: c.name,
)
def test_length_of_vectors_does_not_matter(case):
    teacher, student = case.inputs()
    np.testing.assert_allclose(
        case.loss(100 * teacher, 0.01 * student), case.loss(teacher, student), atol=1e-5
    )


@every_loss
def test_zero_vectors_give_finite_values_and_gradients(case):
    teacher, student = case.inputs()
    student[1] = 0
    values, slope = value_and_gradient(case.loss, teacher, student)
    assert np.isfinite(values).all() and np.isfinite(slope).all()


@pytest.mark.parametrize(
    ("loss", "argument", "value", "rule"),
    [
        ("SimilarityDistillation", "temperature", 0.0, "must be positive and finite"),
        ("SoftTargets", "temperature", -1.0, "must be positive and finite"),
        ("SoftTargets", "temperature", float("nan"), "must be positive and finite"),
        ("SoftTargets", "temperature", float("inf"), "must be positive and finite"),
        ("TranslationRanking", "scale", 0.0, "must be positive and finite"),
        ("TranslationRanking", "margin", -0.1, "must be 0 or more"),
        ("TranslationRanking", "guide_margin", -0.1, "must be 0 or more"),
        ("EmbeddingDistillation", "metric", "l1", "must be one of"),
        ("CorrelationDistillation", "temperature", 0.0, "must be positive and finite"),
        ("CorrelationDistillation", "row_weight", -1.0, "must be 0 or more"),
        ("CorrelationDistillation", "column_weight", -1.0, "must be 0 or more"),
        ("RelationalAngle", "max_neighbours", 2, "must be 3 or more"),
    ],
)
def test_argument_out_of_range_is_refused(loss, argument, value, rule):
    with pytest.raises(InputError) as error:
        getattr(kdkeras.losses, loss)(**{argument: value})
    assert_one_line(str(error.value), f"`{argument}` {rule}", f"{argument}={value!r}", "Use ")


# One case of every loss that has a temperature.
TEMPERED = {
    type(instance): (case, instance)
    for case in [*DISTILLATION, *ALIGNMENT]
    for instance in [getattr(case.loss, "func", case.loss)]
    if "temperature" in inspect.signature(type(instance)).parameters
}
tempered = pytest.mark.parametrize("loss", TEMPERED, ids=lambda c: c.__name__)


def at_temperature(loss, temperature):
    """The case of a loss, with another temperature."""
    case, instance = TEMPERED[loss]
    made = loss.from_config({**instance.get_config(), "temperature": temperature})
    arguments = getattr(case.loss, "keywords", {})
    return case, lambda *both, **step: made(*both, **arguments, **step)


@tempered
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_a_temperature_follows_its_schedule(loss, jit):
    schedule = keras.optimizers.schedules.PolynomialDecay(2.0, 10, 0.5)
    case, scheduled = at_temperature(loss, schedule)
    teacher, student = map(tf.constant, case.inputs())
    compiled = tf.function(lambda t, s, n: scheduled(t, s, step=n), jit_compile=jit)
    for step, temperature in ((0, 2.0), (4, 1.4), (10, 0.5), (50, 0.5)):
        _, constant = at_temperature(loss, temperature)
        np.testing.assert_allclose(
            compiled(teacher, student, tf.constant(step, tf.int64)),
            constant(teacher, student),
            rtol=1e-5,
            atol=1e-6,
        )


@tempered
def test_a_scheduled_temperature_survives_and_needs_the_step(loss):
    schedule = keras.optimizers.schedules.CosineDecay(2.0, 10, alpha=0.1)
    _, instance = TEMPERED[loss]
    made = loss.from_config({**instance.get_config(), "temperature": schedule})
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert copy.temperature.get_config() == schedule.get_config()
    case, scheduled = at_temperature(loss, schedule)
    with pytest.raises(InputError) as error:
        scheduled(*case.inputs())
    assert_one_line(str(error.value), "needs the training's step", "CosineDecay", "step=")


@tempered
def test_a_temperature_that_reaches_zero_is_refused(loss):
    with pytest.raises(InputError) as error:
        loss(temperature=keras.optimizers.schedules.CosineDecay(2.0, 10))
    assert_one_line(str(error.value), "at every step", "temperature=0 at step 10", "end above zero")


def test_different_shapes_are_refused():
    with pytest.raises(InputError) as error:
        EmbeddingDistillation(name="pull")(np.ones((2, 4)), np.ones((2, 3)))
    assert_one_line(str(error.value), "(2, 4)", "(2, 3)", "`pull`", "output_dim")


def test_defaults_read_what_their_name_says():
    assert EmbeddingDistillation().target == "embedding"
    assert SoftTargets().target == "logits"


MODULES = [info.name for info in pkgutil.iter_modules(kdkeras.losses.__path__)]


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    module = importlib.import_module(f"kdkeras.losses.{name}")
    assert doctest.testmod(module).failed == 0


def test_there_are_docstring_examples():
    modules = [importlib.import_module(f"kdkeras.losses.{name}") for name in MODULES]
    assert sum(doctest.testmod(module).attempted for module in modules) >= 2
