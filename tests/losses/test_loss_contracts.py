"""What every loss has to show."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from functools import partial

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
with_a_best = pytest.mark.parametrize(
    "case", [c for c in DISTILLATION if c.best is not None], ids=lambda c: c.name
)


def test_every_exported_loss_is_in_the_table():
    names = (getattr(kdkeras.losses, name) for name in kdkeras.losses.__all__)
    exported = {one for one in names if inspect.isclass(one)}
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


@with_a_best
def test_minimum_is_where_the_student_is_the_teacher(case):
    teacher, _ = case.inputs()
    values, slope = value_and_gradient(case.loss, teacher, case.best(teacher))
    np.testing.assert_allclose(values, 0, atol=1e-6)
    np.testing.assert_allclose(slope, 0, atol=1e-6)


@with_a_best
def test_away_from_the_teacher_is_worse(case):
    teacher, _ = case.inputs()
    moved = case.best(teacher).copy()
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


# The angles of `to_three` point to the first three rows; parts of a batch have an order.
UNORDERED = [
    c
    for c in [*DISTILLATION, *ALIGNMENT]
    if c.name != "relational_angle_to_three" and not isinstance(c.loss, partial)
]


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
    _, exact = value_and_gradient(case.loss, *(tf.cast(v, "float32") for v in (teacher, student)))
    assert np.isfinite(values).all() and np.isfinite(exact).all()
    # A fourth power has slopes that float16 cannot hold.
    assert np.isfinite(slope[np.abs(exact) < tf.as_dtype(dtype).max]).all()
    expected = case.oracle(*(tf.cast(v, "float64").numpy() for v in (teacher, student)))
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "case",
    [
        c
        for c in [*DISTILLATION, *ALIGNMENT]
        if not c.name.startswith(("soft", "mse", "correl", "var"))
    ],
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
        ("VarianceCovariance", "invariance_weight", -1.0, "must be 0 or more"),
        ("VarianceCovariance", "variance_weight", -1.0, "must be 0 or more"),
        ("VarianceCovariance", "covariance_weight", float("nan"), "must be 0 or more"),
        ("VarianceCovariance", "target_std", 0.0, "must be positive and finite"),
        ("CrossCorrelation", "redundancy_weight", -1.0, "must be 0 or more"),
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
