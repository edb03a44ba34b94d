"""What every loss has to show."""

from __future__ import annotations

import ast
import copy
import doctest
import importlib
import inspect
import pkgutil
from pathlib import Path

import keras
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
from kdkeras.distillation.batches import Batch, StudentOutputs
from kdkeras.distillation.terms import loss_terms
from kdkeras.errors import InputError
from kdkeras.losses import (
    EmbeddingDistillation,
    Matryoshka,
    PerLayer,
    QueueDistillation,
    SimilarityDistillation,
    SoftTargets,
    TokenTopKSoftTargets,
    TopKSoftTargets,
)
from kdkeras.losses.base import ExampleLoss

every_loss = pytest.mark.parametrize("case", [*DISTILLATION, *ALIGNMENT], ids=lambda c: c.name)
distillation = pytest.mark.parametrize("case", DISTILLATION, ids=lambda c: c.name)
with_a_minimum = pytest.mark.parametrize(
    "case", [c for c in DISTILLATION if c.same is not None], ids=lambda c: c.name
)


def exported():
    """The losses of the package; not their base classes, functions and task losses."""
    public = {getattr(kdkeras.losses, name) for name in kdkeras.losses.__all__}
    bases = {kdkeras.losses.AlignmentLoss, kdkeras.losses.DistillationLoss}
    return {x for x in public if isinstance(x, type) and issubclass(x, ExampleLoss)} - bases


def registered():
    """What Keras can make of a configuration, and is a loss of the package."""
    known = keras.saving.get_custom_objects()
    return {x for x in known.values() if isinstance(x, type) and issubclass(x, ExampleLoss)}


def test_every_loss_is_in_the_table():
    ours = {loss for loss in registered() if loss.__module__.startswith("kdkeras.losses.")}
    assert exported() == ours == set(ARGUMENTS)
    assert {type(c.loss) for c in [*DISTILLATION, *ALIGNMENT]} == set(ARGUMENTS)


# The capacity of a queue: the oracle would be given thousands of rows.
NOT_BY_DEFAULT = {"size"}


@pytest.mark.parametrize("loss", ARGUMENTS, ids=lambda c: c.__name__)
def test_the_defaults_of_every_loss_have_an_oracle(loss):
    parameters = inspect.signature(loss).parameters.values()
    optional = {
        p.name: p.default
        for p in parameters
        if p.default is not p.empty and p.name not in {"name", *NOT_BY_DEFAULT}
    }
    made = [c.loss for c in [*DISTILLATION, *ALIGNMENT] if type(c.loss) is loss]
    assert any(all(getattr(one, key) == value for key, value in optional.items()) for one in made)


WORKED = [path for path in Path(__file__).parent.glob("test_worked_*.py")]


@pytest.mark.parametrize("loss", ARGUMENTS, ids=lambda c: c.__name__)
def test_every_loss_is_worked_by_hand(loss):
    tests = [
        node
        for path in WORKED
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and "oracles" not in ast.unparse(node)
    ]
    assert any(
        isinstance(node, ast.Name) and node.id == loss.__name__
        for test in tests
        for node in ast.walk(test)
    )


@pytest.mark.parametrize("loss", ARGUMENTS, ids=lambda c: c.__name__)
def test_every_loss_says_what_it_is(loss):
    for part in ("Formula", "Cost", "Call arguments:", "Returns:", "Raises:"):
        assert part in loss.__doc__ or (part == "Raises:" and "Args:" not in loss.__doc__), part


@every_loss
def test_sample_weights_weigh_rows(case):
    teacher, student = case.inputs()
    weight = np.array([0.5, 0.0, 2.0, 1.0], "float32")
    parts, reads = dict(case.parts), {**case.loss.takes, **case.loss.needs}
    cached = teacher
    if case.cached is not None:
        cached, kept = case.cached(teacher)
        parts.update(kept)
    found = {reads[key]: value for key, value in parts.items()}
    inputs = {name: found.pop(name) for name in ("padding_mask",) if name in found}
    labels, source_id = found.pop("label", None), found.pop("source_id", None)
    aligned = isinstance(case.loss, kdkeras.losses.AlignmentLoss)
    if aligned:  # The sides are both the student's.
        outputs = StudentOutputs(tf.constant(teacher), tf.constant(student))
    else:
        found[case.loss.target] = cached
        outputs = StudentOutputs({case.loss.student_output: student}, None)
    batch = Batch(inputs, inputs if aligned else None, None, source_id, found, labels, weight)
    losses = ({}, {"one": case.loss}) if aligned else ({"one": case.loss}, {})
    terms = loss_terms(batch, found, outputs, *losses, step=tf.constant(0))
    expected = (weight * case.expected(teacher, student)).sum()
    np.testing.assert_allclose(terms["one"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "cases", ["tests/distribution/distribution_cases.py", "tests/distribution/tpu_cases.py"]
)
def test_every_exported_loss_runs_on_replicas_and_is_checked_for_tpus(cases):
    tree = ast.parse((Path(__file__).parents[2] / cases).read_text())
    # What is imported and not used is no name here.
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert {loss.__name__ for loss in exported()} - used == set()


@pytest.mark.parametrize("loss", ARGUMENTS, ids=lambda c: c.__name__)
def test_configuration_survives(loss):
    assert_config_round_trip(loss, ARGUMENTS[loss])


@every_loss
def test_equals_oracle(case):
    values = case.value(*case.inputs())
    assert values.dtype == tf.float32 and values.shape == (4,)
    np.testing.assert_allclose(values, case.expected(*case.inputs()), rtol=1e-5, atol=1e-5)


# In steps that float32 tells apart: what all but does not vary has no correlation to speak of.
elements = st.integers(-192, 192).map(lambda n: n / 64)


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


@every_loss
def test_rows_and_tokens_of_unknown_number_give_equal_numbers(case):
    sides = case.inputs()
    specs = map_structure(
        lambda x: tf.TensorSpec([None] * (x.ndim - 1) + [x.shape[-1]], tf.float32), sides
    )
    traced = tf.function(lambda t, s: case.value(t, s), input_signature=specs)
    tensors = map_structure(tf.constant, sides)
    np.testing.assert_allclose(traced(*tensors), case.value(*sides), atol=1e-5)


@with_a_minimum
def test_minimum_is_where_the_student_is_the_teacher(case):
    teacher, _ = case.inputs()
    values, slope = value_and_gradient(case.value, teacher, case.same(teacher))
    np.testing.assert_allclose(values, 0, atol=1e-6)
    for array in flatten(slope):
        np.testing.assert_allclose(array, 0, atol=1e-6)


@with_a_minimum
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
UNORDERED = [c for c in [*DISTILLATION, *ALIGNMENT] if c.name != "relational_angle_to_three"]


@pytest.mark.parametrize("case", UNORDERED, ids=lambda c: c.name)
def test_order_of_the_batch_does_not_matter(case):
    (teacher, student), order = case.inputs(), [2, 0, 3, 1]
    np.testing.assert_allclose(
        case.value(teacher, student, order), case.value(teacher, student).numpy()[order], atol=1e-5
    )


MASKED = [c for c in DISTILLATION if "padding_mask" in c.parts]


@pytest.mark.parametrize("case", MASKED, ids=lambda c: c.name)
def test_padding_does_not_change_the_loss_and_gets_no_gradient(case):
    teacher, student = case.inputs()
    padded = case.parts["padding_mask"] == 0
    other_teacher, other_student = copy.deepcopy((teacher, student))
    for array in flatten(other_teacher):
        array[padded] *= -50
    for array in flatten(other_student):
        array[padded] = -1e4
    values, slope = value_and_gradient(case.value, other_teacher, other_student)
    expected = case.value(teacher, student).numpy()
    np.testing.assert_array_equal(values, expected)
    np.testing.assert_array_equal(expected > 0.01, (~padded).any(axis=1))
    for array in flatten(slope):
        np.testing.assert_array_equal(array[padded], 0)
    # Not every layer is read, but every token.
    assert sum(np.abs(array) for array in flatten(slope))[~padded].max(axis=-1).min() > 0


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@every_loss
def test_huge_half_precision_inputs_stay_finite(case, dtype):
    sides = map_structure(lambda v: tf.cast(np.where(v > 0, 1e4, -1e4), dtype), case.inputs())
    values, slope = value_and_gradient(case.value, *sides)
    assert values.dtype == np.float32
    _, exact = value_and_gradient(
        case.value, *map_structure(lambda v: tf.cast(v, "float32"), sides)
    )
    assert all(np.isfinite(array).all() for array in (values, *flatten(exact)))
    for array, wanted in zip(flatten(slope), flatten(exact), strict=True):
        # A fourth power has slopes that float16 cannot hold.
        assert np.isfinite(array[np.abs(wanted) < tf.as_dtype(dtype).max]).all()
    expected = case.expected(*map_structure(lambda v: tf.cast(v, "float64").numpy(), sides))
    np.testing.assert_allclose(values, expected, rtol=1e-3, atol=1e-3)


SIZE_MATTERS = (
    "soft",
    "mse",
    "l2",
    "correl",
    "var",
    "logit",
    "decoupled",
    "top",
    "token",
    "hidden_states",
    "attention",
)


@pytest.mark.parametrize(
    "case",
    [
        c
        for c in [*DISTILLATION, *ALIGNMENT]
        if "standardized" in c.name or not c.name.startswith(SIZE_MATTERS)
    ],
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
        ("DecoupledDistillation", "temperature", 0.0, "must be positive and finite"),
        ("DecoupledDistillation", "label_weight", -1.0, "must be 0 or more"),
        ("DecoupledDistillation", "other_weight", float("nan"), "must be 0 or more"),
        ("TopKSoftTargets", "temperature", 0.0, "must be positive and finite"),
        ("TokenSoftTargets", "temperature", -2.0, "must be positive and finite"),
        ("TokenTopKSoftTargets", "temperature", 0.0, "must be positive and finite"),
        ("RelationalAngle", "max_neighbours", 2, "must be 3 or more"),
        ("VICReg", "invariance_weight", -1.0, "must be 0 or more"),
        ("VICReg", "variance_weight", -1.0, "must be 0 or more"),
        ("VICReg", "covariance_weight", float("nan"), "must be 0 or more"),
        ("VICReg", "target_std", 0.0, "must be positive and finite"),
        ("BarlowTwins", "redundancy_weight", -1.0, "must be 0 or more"),
    ],
)
def test_argument_out_of_range_is_refused(loss, argument, value, rule):
    with pytest.raises(InputError) as error:
        getattr(kdkeras.losses, loss)(**{argument: value})
    assert_one_line(str(error.value), f"`{argument}` {rule}", f"{argument}={value!r}", "Use ")


# One case of every loss that has a temperature (a ranking has its inverse), and the argument's
# name; the temperature of a kept top belongs to the batch.
TEMPERED = {
    type(case.loss): (case, name)
    for case in [*DISTILLATION, *ALIGNMENT]
    for name in ("temperature", "scale")
    if name in inspect.signature(type(case.loss)).parameters
    and not isinstance(case.loss, TopKSoftTargets)
}
tempered = pytest.mark.parametrize("loss", TEMPERED, ids=lambda c: c.__name__)


def at_temperature(loss, temperature):
    """The case of a loss, with another temperature."""
    case, argument = TEMPERED[loss]
    made = loss.from_config({**case.loss.get_config(), argument: temperature})
    return case._replace(loss=made)


@tempered
@pytest.mark.parametrize("jit", [False, True], ids=["graph", "xla"])
def test_a_temperature_follows_its_schedule(loss, jit):
    case = at_temperature(loss, keras.optimizers.schedules.PolynomialDecay(2.0, 10, 0.5))
    teacher, student = map_structure(tf.constant, case.inputs())
    compiled = tf.function(lambda t, s, n: case.value(t, s, step=n), jit_compile=jit)
    for step, temperature in ((0, 2.0), (4, 1.4), (10, 0.5), (50, 0.5)):
        np.testing.assert_allclose(
            compiled(teacher, student, tf.constant(step, tf.int64)),
            at_temperature(loss, temperature).value(teacher, student),
            rtol=1e-5,
            atol=1e-6,
        )


@tempered
def test_a_scheduled_temperature_survives_and_needs_the_step(loss):
    schedule = keras.optimizers.schedules.CosineDecay(2.0, 10, alpha=0.1)
    case = at_temperature(loss, schedule)
    copied = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(case.loss))
    assert getattr(copied, TEMPERED[loss][1]).get_config() == schedule.get_config()
    with pytest.raises(InputError) as error:
        case.value(*case.inputs())
    assert_one_line(str(error.value), "needs the training's step", "CosineDecay", "step=")


@tempered
def test_a_temperature_that_reaches_zero_is_refused(loss):
    to_zero, name = keras.optimizers.schedules.CosineDecay(2.0, 10), TEMPERED[loss][1]
    with pytest.raises(InputError) as error:
        loss(**{**ARGUMENTS[loss], name: to_zero})
    assert_one_line(str(error.value), "at every step", f"{name}=0 at step 10", "end above zero")


def test_the_students_temperature_in_a_queue_follows_a_schedule_of_its_own():
    rise = keras.optimizers.schedules.PolynomialDecay(0.2, 10, 0.6)
    case = next(c for c in DISTILLATION if c.name == "queue_at_two_temperatures")
    scheduled, constant = (
        case._replace(
            loss=QueueDistillation.from_config(
                {**case.loss.get_config(), "student_temperature": student_temperature}
            )
        )
        for student_temperature in (rise, 0.4)
    )
    np.testing.assert_allclose(
        scheduled.value(*case.inputs(), step=5), constant.value(*case.inputs()), rtol=1e-5
    )


@pytest.mark.parametrize("loss", [TopKSoftTargets, TokenTopKSoftTargets])
def test_a_kept_top_refuses_a_temperature_that_changes(loss):
    with pytest.raises(InputError) as error:
        loss(keras.optimizers.schedules.PolynomialDecay(2.0, 10, 0.5))
    assert_one_line(str(error.value), "fixed temperatures", "PolynomialDecay", "top_k_targets")


def test_losses_inside_others_are_told_the_step():
    linear = keras.optimizers.schedules.PolynomialDecay(2.0, 10, 0.5)
    teacher, student = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")

    def inside(temperature):
        return PerLayer(Matryoshka(SimilarityDistillation(temperature), [2, 5]))

    assert inside(linear).takes == {"step": "step"}
    scheduled = inside(linear)(teacher, [student] * 2, step=4)
    np.testing.assert_allclose(scheduled, inside(1.4)(teacher, [student] * 2), rtol=1e-5)


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
