"""What every loss has to show."""

from __future__ import annotations

import copy
import doctest
import importlib
import pkgutil

import numpy as np
import pytest
import tensorflow as tf
from contracts import assert_config_round_trip, assert_one_line, value_and_gradient
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from keras.tree import flatten, map_structure
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
    values = case.value(*case.inputs())
    assert values.dtype == tf.float32 and values.shape == (4,)
    np.testing.assert_allclose(values, case.expected(*case.inputs()), rtol=1e-5, atol=1e-5)


elements = st.floats(-3, 3, width=32)


@every_loss
@settings(max_examples=10, deadline=None)
@given(values=arrays(np.float32, (2, 60), elements=elements))
def test_equals_oracle_on_any_vectors(case, values):
    teacher, student = case.fill(values)
    # Away from the zero vector, which has no direction to compare.
    for moved, by in ((teacher, 4), (student, -4)):
        for array in flatten(moved):
            array[..., 0] += by
    if case.name.startswith("relational"):
        # Away from equal vectors, too: from one to the other there is no direction.
        teacher[:, 1:] += 8 * np.eye(4, dtype="float32")
        student[:, 1:] -= 8 * np.eye(4, dtype="float32")
    np.testing.assert_allclose(
        case.value(teacher, student), case.expected(teacher, student), rtol=1e-4, atol=1e-4
    )


@every_loss
def test_xla_gives_equal_numbers(case):
    teacher, student = map_structure(tf.constant, case.inputs())
    compiled = tf.function(lambda t, s: case.value(t, s), jit_compile=True)
    np.testing.assert_allclose(compiled(teacher, student), case.value(teacher, student), atol=1e-5)


@distillation
def test_minimum_is_where_the_student_is_the_teacher(case):
    teacher, _ = case.inputs()
    values, slope = value_and_gradient(case.value, teacher, case.same(teacher))
    np.testing.assert_allclose(values, 0, atol=1e-6)
    for array in flatten(slope):
        np.testing.assert_allclose(array, 0, atol=1e-6)


@distillation
def test_away_from_the_teacher_is_worse(case):
    teacher, _ = case.inputs()
    moved = copy.deepcopy(case.same(teacher))
    for array in flatten(moved):
        array[0, ..., 0] += 1.0  # One row: relations do not see what moves all.
    assert case.value(teacher, moved).numpy().max() > 1e-3


@every_loss
def test_gradient_step_lowers_the_true_loss(case):
    teacher, student = case.inputs()
    _, slope = value_and_gradient(case.value, teacher, student)
    stepped = map_structure(lambda s, by: s - 0.01 * by, student, slope)
    before, after = (case.expected(teacher, s).sum() for s in (student, stepped))
    assert after < before - 1e-5


@distillation
def test_no_gradient_reaches_the_teacher(case):
    teacher, student = map_structure(tf.constant, case.inputs())
    with tf.GradientTape() as tape:
        tape.watch([teacher, student])
        values = case.value(teacher, student)
    to_teacher, to_student = tape.gradient(values, [flatten(teacher), flatten(student)])
    assert to_teacher == [None] * len(to_teacher)
    assert max(np.abs(slope).max() for slope in to_student if slope is not None) > 0


# The angles of `to_three` point to the first three rows.
UNORDERED = [c for c in [*DISTILLATION, ALIGNMENT[0]] if c.name != "relational_angle_to_three"]


@pytest.mark.parametrize("case", UNORDERED, ids=lambda c: c.name)
def test_order_of_the_batch_does_not_matter(case):
    (teacher, student), order = case.inputs(), [2, 0, 3, 1]
    other = (map_structure(lambda x: x[order], side) for side in (teacher, student))
    np.testing.assert_allclose(
        case.value(*other, order), case.value(teacher, student).numpy()[order], atol=1e-5
    )


@pytest.mark.parametrize(
    "case", [c for c in DISTILLATION if "padding_mask" in c.parts], ids=lambda c: c.name
)
def test_padding_changes_neither_value_nor_gradient(case):
    teacher, student = case.inputs()
    padding = (1 - case.parts["padding_mask"])[..., None]
    other = (map_structure(lambda x: x + 50 * padding, side) for side in (teacher, student))
    (values, slope), (expected, _) = (
        value_and_gradient(case.value, *sides) for sides in (other, (teacher, student))
    )
    np.testing.assert_allclose(values, expected, atol=1e-6)
    assert expected[:3].min() > 0.01 and expected[3] == 0  # The last has no token.
    assert all((array * padding == 0).all() for array in flatten(slope))


SEES_LENGTH = ("soft", "mse", "correl", "hidden_states", "attention")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@every_loss
def test_huge_half_precision_inputs_stay_finite(case, dtype):
    sides = map_structure(lambda v: tf.cast(np.where(v > 0, 1e4, -1e4), dtype), case.inputs())
    values, slope = value_and_gradient(case.value, *sides)
    assert values.dtype == np.float32
    assert all(np.isfinite(array).all() for array in (values, *flatten(slope)))
    expected = case.expected(*map_structure(lambda v: tf.cast(v, "float64").numpy(), sides))
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "case",
    [c for c in [*DISTILLATION, *ALIGNMENT] if not c.name.startswith(SEES_LENGTH)],
    ids=lambda c: c.name,
)
def test_length_of_vectors_does_not_matter(case):
    teacher, student = case.inputs()
    scaled = (map_structure(lambda x: 100 * x, teacher), map_structure(lambda x: x / 100, student))
    np.testing.assert_allclose(case.value(*scaled), case.value(teacher, student), atol=1e-5)


@every_loss
def test_zero_vectors_give_finite_values_and_gradients(case):
    teacher, student = case.inputs()
    for array in flatten(student):
        array[1] = 0
    values, slope = value_and_gradient(case.value, teacher, student)
    assert all(np.isfinite(array).all() for array in (values, *flatten(slope)))


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
