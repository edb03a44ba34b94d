"""Properties of every loss in the table (`loss_table.py`)."""

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
from keras.tree import flatten, map_structure
from loss_table import LOSSES

import kdkeras.losses
from kdkeras.distillation.batches import Batch, StudentOutputs
from kdkeras.distillation.terms import loss_terms
from kdkeras.errors import InputError
from kdkeras.losses import (
    Matryoshka,
    PerLayer,
    QueueDistillation,
    SimilarityDistillation,
    TokenTopKSoftTargets,
    TopKSoftTargets,
)
from kdkeras.losses.base import ExampleLoss

FOLDER = Path(__file__).parent
every_loss = pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.__name__)


def losses_with(condition):
    """The losses that have a case of this kind."""
    found = [loss for loss, entry in LOSSES.items() if any(map(condition, entry.cases))]
    return pytest.mark.parametrize("loss", found, ids=lambda loss: loss.__name__)


# ---- the table --------------------------------------------------------------


def exported():
    """The exported losses, without their base classes and the task loss."""
    public = {getattr(kdkeras.losses, name) for name in kdkeras.losses.__all__}
    bases = {kdkeras.losses.AlignmentLoss, kdkeras.losses.DistillationLoss}
    return {x for x in public if isinstance(x, type) and issubclass(x, ExampleLoss)} - bases


def test_table_has_every_exported_and_registered_loss():
    registered = {
        x
        for x in keras.saving.get_custom_objects().values()
        if isinstance(x, type)
        and issubclass(x, ExampleLoss)
        and x.__module__.startswith("kdkeras.losses.")
    }
    assert exported() == registered == set(LOSSES)
    for loss, entry in LOSSES.items():
        assert {type(case.loss) for case in entry.cases} == {loss}


def test_every_loss_has_a_case_with_its_defaults():
    # Apart from the size of a queue: its oracle would get thousands of rows.
    for loss, entry in LOSSES.items():
        defaults = {
            p.name: p.default
            for p in inspect.signature(loss).parameters.values()
            if p.default is not p.empty and p.name not in {"name", "size"}
        }
        made = entry.cases[0].loss
        assert {name: getattr(made, name) for name in defaults} == defaults


def test_every_loss_has_a_case_worked_by_hand():
    files = [path for path in FOLDER.glob("test_*.py") if path != Path(__file__)]
    tests = [node for path in files for node in ast.parse(path.read_text()).body]
    used = {
        name.id
        for test in tests
        if isinstance(test, ast.FunctionDef) and test.name.endswith("_by_hand")
        for name in ast.walk(test)
        if isinstance(name, ast.Name) and "oracles" not in ast.unparse(test)
    }
    assert {loss.__name__ for loss in LOSSES} - used == set()


def test_every_loss_documents_formula_cost_shapes_and_errors():
    for loss in LOSSES:
        for part in ("Formula", "Cost", "Call arguments:", "Returns:", "Raises:"):
            assert part in loss.__doc__ or loss is kdkeras.losses.SpreadOut and part == "Raises:"


@pytest.mark.parametrize(
    "cases", ["tests/distribution/distribution_cases.py", "tests/distribution/tpu_cases.py"]
)
def test_every_loss_is_checked_on_replicas_and_tpus(cases):
    tree = ast.parse((FOLDER.parents[1] / cases).read_text())
    # An unused import is not a name here.
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert {loss.__name__ for loss in exported()} - used == set()


# ---- values -------------------------------------------------------------------


@every_loss
def test_values_equal_the_oracle(loss):
    tolerances = {"random": 1e-5, "ties": 1e-4, "equal rows": 1e-4}
    for case in LOSSES[loss].cases:
        for kind, tolerance in tolerances.items():
            teacher, student = case.inputs(kind)
            values = case.value(teacher, student)
            assert values.dtype == tf.float32 and values.shape == (4,)
            np.testing.assert_allclose(
                values,
                case.expected(teacher, student),
                rtol=tolerance,
                atol=tolerance,
                err_msg=f"{case.label}, {kind}",
            )


@every_loss
def test_xla_with_unknown_numbers_of_rows_and_tokens_gives_the_same_values(loss):
    cases = LOSSES[loss].cases
    inputs = [case.inputs() for case in cases]
    specs = map_structure(
        lambda x: tf.TensorSpec([None] * (x.ndim - 1) + [x.shape[-1]], tf.float32), inputs
    )

    # One function, because compiling is slow.
    @tf.function(input_signature=[specs], jit_compile=True, autograph=False)
    def compiled(inputs):
        return [case.value(*sides) for case, sides in zip(cases, inputs, strict=True)]

    for case, sides, values in zip(cases, inputs, compiled(inputs), strict=True):
        np.testing.assert_allclose(values, case.value(*sides), atol=1e-5, err_msg=case.label)


@every_loss
def test_order_of_the_batch_does_not_matter(loss):
    order = [2, 0, 3, 1]
    for case in LOSSES[loss].cases:
        if case.any_order:
            permuted = case.value(*case.inputs(), order)
            expected = case.value(*case.inputs()).numpy()[order]
            np.testing.assert_allclose(permuted, expected, atol=1e-5, err_msg=case.label)


@losses_with(lambda case: "padding_mask" in case.parts)
def test_padding_does_not_change_the_loss_and_gets_no_gradient(loss):
    for case in LOSSES[loss].cases:
        if "padding_mask" not in case.parts:
            continue
        teacher, student = case.inputs()
        padded = case.parts["padding_mask"] == 0
        other_teacher, other_student = copy.deepcopy((teacher, student))
        for array in flatten(other_teacher):
            array[padded] *= -50
        for array in flatten(other_student):
            array[padded] = -1e4
        values, slope = value_and_gradient(case.value, other_teacher, other_student)
        expected = case.value(teacher, student).numpy()
        np.testing.assert_array_equal(values, expected, err_msg=case.label)
        np.testing.assert_array_equal(expected > 0.01, (~padded).any(axis=1))
        for array in flatten(slope):
            np.testing.assert_array_equal(array[padded], 0)
        # Every real token is read, in some layer.
        assert sum(np.abs(array) for array in flatten(slope))[~padded].max(axis=-1).min() > 0


@every_loss
def test_half_precision_and_zero_vectors_give_finite_values_and_gradients(loss):
    for case in LOSSES[loss].cases:
        sides = map_structure(lambda x: np.where(x > 0, 1e4, -1e4), case.inputs())
        for dtype in ("float16", "bfloat16"):
            huge = map_structure(lambda x, dtype=dtype: tf.cast(x, dtype), sides)
            exact = map_structure(lambda x: tf.cast(x, "float64").numpy(), huge)
            values, slope = value_and_gradient(case.value, *huge)
            assert values.dtype == np.float32
            np.testing.assert_allclose(
                values, case.expected(*exact), rtol=1e-3, atol=1e-3, err_msg=case.label
            )
        # bfloat16 has the range of float32; float16 cannot hold the gradient of a fourth power.
        assert all(np.isfinite(array).all() for array in flatten(slope)), case.label
        teacher, student = case.inputs()
        for array in flatten(student):
            array[1] = 0
        values, slope = value_and_gradient(case.value, teacher, student)
        assert all(np.isfinite(array).all() for array in (values, *flatten(slope))), case.label


# ---- gradients ----------------------------------------------------------------


@every_loss
def test_gradient_step_lowers_the_true_loss_and_leaves_the_teacher(loss):
    for case in LOSSES[loss].cases:
        teacher, student = map_structure(tf.constant, case.inputs())
        with tf.GradientTape() as tape:
            tape.watch([teacher, student])
            values = case.value(teacher, student)
        of_teacher, of_student = tape.gradient(
            values, [teacher, student], unconnected_gradients="none"
        )
        # The sides of an alignment loss are both the student's.
        assert case.aligns or not any(slope is not None for slope in flatten(of_teacher))
        stepped = map_structure(
            lambda x, slope: x if slope is None else x - 0.01 * slope, student, of_student
        )
        before, after = (
            case.expected(*map_structure(np.asarray, (teacher, x))).sum()
            for x in (student, stepped)
        )
        assert after < before - 1e-5, case.label


@losses_with(lambda case: case.same)
def test_minimum_is_where_student_equals_teacher(loss):
    for case in LOSSES[loss].cases:
        if case.same is None:
            continue
        teacher, _ = case.inputs()
        values, slope = value_and_gradient(case.value, teacher, case.same(teacher))
        for array in (values, *flatten(slope)):
            np.testing.assert_allclose(array, 0, atol=1e-6, err_msg=case.label)
        moved = copy.deepcopy(case.same(teacher))
        for array in flatten(moved):
            array[0, ..., 0] += 1.0  # One example: relations are invariant to moving all.
        assert case.value(teacher, moved).numpy().max() > 1e-3, case.label


@losses_with(lambda case: case.same)
def test_a_constant_student_is_worse_than_one_near_the_teacher(loss):
    for case in LOSSES[loss].cases:
        if case.same is None:
            continue
        teacher, noise = case.inputs()
        best = case.same(teacher)
        near = map_structure(lambda x, by: x + 0.1 * by, best, noise)
        constant = map_structure(lambda x: np.broadcast_to(x[:1], x.shape), best)
        values = [case.value(teacher, student).numpy().sum() for student in (near, constant)]
        assert values[0] < values[1], case.label


# ---- in a Distiller -----------------------------------------------------------


@every_loss
def test_reads_its_parts_of_the_batch_and_is_multiplied_by_sample_weights(loss):
    case = LOSSES[loss].cases[-1]
    teacher, student = case.inputs()
    weight = np.array([0.5, 0.0, 2.0, 1.0], "float32")
    parts, reads = dict(case.parts), {**case.loss.takes, **case.loss.needs}
    target = teacher
    if case.cached is not None:
        target, kept = case.cached(teacher)
        parts.update(kept)
    found = {reads[key]: value for key, value in parts.items()}
    inputs = {name: found.pop(name) for name in ("padding_mask",) if name in found}
    labels, source_id = found.pop("label", None), found.pop("source_id", None)
    if case.aligns:
        outputs = StudentOutputs(tf.constant(teacher), tf.constant(student))
    else:
        found[case.loss.target] = target
        outputs = StudentOutputs({case.loss.student_output: student}, None)
    translation = inputs if case.aligns else None
    batch = Batch(inputs, translation, None, source_id, found, labels, weight)
    losses = ({}, {"one": case.loss}) if case.aligns else ({"one": case.loss}, {})
    terms = loss_terms(batch, found, outputs, *losses, step=tf.constant(0))
    expected = (weight * case.expected(teacher, student)).sum()
    np.testing.assert_allclose(terms["one"], expected, rtol=1e-5, atol=1e-5)


# ---- arguments ----------------------------------------------------------------


@every_loss
def test_every_argument_survives_serialization(loss):
    assert_config_round_trip(loss, LOSSES[loss].arguments)


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
        ("RelationalAngle", "max_neighbors", 2, "must be 3 or more"),
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


# ---- scheduled temperatures -----------------------------------------------------

# The losses with a temperature (the scale of a ranking is its inverse), and the argument's name.
# That of stored top logits is fixed.
TEMPERED = {
    loss: name
    for loss in LOSSES
    for name in ("temperature", "scale")
    if name in inspect.signature(loss).parameters and not issubclass(loss, TopKSoftTargets)
}
tempered = pytest.mark.parametrize("loss", TEMPERED, ids=lambda loss: loss.__name__)


def with_argument(case, **argument):
    """The case with another value of one argument of its loss."""
    made = type(case.loss).from_config({**case.loss.get_config(), **argument})
    return case._replace(loss=made)


@tempered
def test_temperature_follows_its_schedule(loss):
    case, name = LOSSES[loss].cases[0], TEMPERED[loss]
    teacher, student = map_structure(tf.constant, case.inputs())
    schedule = keras.optimizers.schedules.PolynomialDecay(2.0, 10, 0.5)
    scheduled = with_argument(case, **{name: schedule})
    traced = tf.function(lambda step: scheduled.value(teacher, student, step=step))
    for step, temperature in ((0, 2.0), (4, 1.4), (50, 0.5)):
        np.testing.assert_allclose(
            traced(tf.constant(step, tf.int64)),
            with_argument(case, **{name: temperature}).value(teacher, student),
            rtol=1e-5,
            atol=1e-6,
        )


@tempered
def test_scheduled_temperature_is_saved_needs_the_step_and_stays_above_zero(loss):
    case, name = LOSSES[loss].cases[0], TEMPERED[loss]
    schedule = keras.optimizers.schedules.CosineDecay(2.0, 10, alpha=0.1)
    case = with_argument(case, **{name: schedule})
    copied = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(case.loss))
    assert getattr(copied, name).get_config() == schedule.get_config()
    with pytest.raises(InputError) as error:
        case.value(*case.inputs())
    assert_one_line(str(error.value), "needs the training step", "CosineDecay", "step=")
    to_zero = keras.optimizers.schedules.CosineDecay(2.0, 10)
    with pytest.raises(InputError) as error:
        loss(**{**LOSSES[loss].arguments, name: to_zero})
    assert_one_line(str(error.value), "at every step", f"{name}=0 at step 10", "end above zero")


def test_student_temperature_of_a_queue_follows_its_own_schedule():
    rise = keras.optimizers.schedules.PolynomialDecay(0.2, 10, 0.6)
    case = next(c for c in LOSSES[QueueDistillation].cases if c.label == "two temperatures")
    scheduled, constant = (with_argument(case, student_temperature=t) for t in (rise, 0.4))
    np.testing.assert_allclose(
        scheduled.value(*case.inputs(), step=5), constant.value(*case.inputs()), rtol=1e-5
    )


@pytest.mark.parametrize("loss", [TopKSoftTargets, TokenTopKSoftTargets])
def test_stored_top_logits_refuse_a_scheduled_temperature(loss):
    with pytest.raises(InputError) as error:
        loss(keras.optimizers.schedules.PolynomialDecay(2.0, 10, 0.5))
    assert_one_line(str(error.value), "must be fixed", "PolynomialDecay", "top_k_targets")


def test_wrapped_losses_receive_the_step():
    linear = keras.optimizers.schedules.PolynomialDecay(2.0, 10, 0.5)
    teacher, student = np.random.default_rng(0).normal(size=(2, 4, 5)).astype("float32")

    def wrapped(temperature):
        return PerLayer(Matryoshka(SimilarityDistillation(temperature), [2, 5]))

    assert wrapped(linear).takes == {"step": "step"}
    scheduled = wrapped(linear)(teacher, [student] * 2, step=4)
    np.testing.assert_allclose(scheduled, wrapped(1.4)(teacher, [student] * 2), rtol=1e-5)


# ---- documentation ------------------------------------------------------------


def test_docstring_examples_run():
    names = [info.name for info in pkgutil.iter_modules(kdkeras.losses.__path__)]
    results = [doctest.testmod(importlib.import_module(f"kdkeras.losses.{n}")) for n in names]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) >= 12
