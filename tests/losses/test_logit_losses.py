"""Losses on logits: cases worked by hand, and properties of single losses."""

from __future__ import annotations

from math import exp, log

import numpy as np
import oracles
import oracles_logits
import pytest
import tensorflow as tf
from contracts import value_and_gradient

from kdkeras.losses import (
    CorrelationDistillation,
    DecoupledDistillation,
    LogitMSE,
    SoftTargets,
    TokenLogitMSE,
    TokenSoftTargets,
    TokenTopKSoftTargets,
    TopKSoftTargets,
    top_k_targets,
)


def logits(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=(2, *shape)).astype("float32") * 3


def from_full(loss, teacher, student, k):
    """A top-k loss, from all logits of the teacher."""
    kept = top_k_targets(teacher, k, (loss.temperature,))
    rest = kept[f"top_rest_{loss.temperature:g}"]
    return loss(kept["top_logits"], student, top_indices=kept["top_indices"], top_rest=rest)


# ---- soft targets ----------------------------------------------------------


def test_soft_targets_by_hand():
    # Teacher ln(3,1) -> p = (3/4, 1/4); student ln(1,1) -> (1/2, 1/2).
    # KL = 3/4 ln(3/2) + 1/4 ln(1/2)
    values = SoftTargets()(np.log([[3.0, 1.0]]), np.log([[1.0, 1.0]]))
    np.testing.assert_allclose(values, [0.75 * log(1.5) + 0.25 * log(0.5)], rtol=1e-5)


def test_softened_targets_by_hand():
    # Temperature 2: logits 2 ln 3 soften to ln 3, the case above, times 2^2.
    values = SoftTargets(temperature=2.0)(2 * np.log([[3.0, 1.0]]), np.log([[1.0, 1.0]]))
    np.testing.assert_allclose(values, [4 * (0.75 * log(1.5) + 0.25 * log(0.5))], rtol=1e-5)


def test_gradient_keeps_its_size_at_a_high_temperature():
    # For high temperatures it approaches (student - teacher) / V (Hinton et al., equation 4).
    teacher, student = np.array([[1.0, -1.0]], "float32"), np.array([[-0.5, 0.5]], "float32")
    _, slope = value_and_gradient(SoftTargets(temperature=100.0), teacher, student)
    np.testing.assert_allclose(slope, (student - teacher) / 2, rtol=1e-3)


def test_adding_a_constant_to_logits_does_not_change_soft_targets():
    teacher, student = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32")
    np.testing.assert_allclose(
        SoftTargets()(teacher + 7, student - 3), SoftTargets()(teacher, student), atol=1e-5
    )


def test_standardized_targets_by_hand():
    # (3, 1) and (10, -10) both become (1, -1): loss 0. (1, 3) becomes (-1, 1):
    # KL = (p - q) * 2 with p = e / (e + 1/e), q = 1 - p.
    loss = SoftTargets(standardize=True)
    values = loss(np.array([[3.0, 1.0]] * 2), np.array([[10.0, -10.0], [1.0, 3.0]]))
    p = exp(1) / (exp(1) + exp(-1))
    np.testing.assert_allclose(values, [0.0, 2 * (2 * p - 1)], rtol=1e-5, atol=1e-6)


def test_equal_logits_are_standardized_to_zero():
    values = SoftTargets(standardize=True)(np.array([[5.0, 5.0]]), np.array([[2.0, 2.0]]))
    np.testing.assert_allclose(values, 0, atol=1e-6)


# ---- correlation -----------------------------------------------------------


def test_correlation_with_a_very_certain_teacher_is_one():
    logits = np.random.default_rng(0).normal(size=(32, 1000))
    logits[np.arange(32), np.arange(32)] = 18.0  # Columns of 1e-8 also vary.
    assert float(np.max(CorrelationDistillation()(logits, logits))) < 1e-5


def test_correlation_by_hand():
    # With two classes the probabilities are p and 1 - p: over rows the correlation is 1 or -1. The
    # student prefers class 0 in both rows, less in the second: columns correlate with the teacher.
    teacher, student = np.array([[2.0, 0.0], [0.0, 2.0]]), np.array([[3.0, 0.0], [1.0, 0.0]])
    np.testing.assert_allclose(CorrelationDistillation()(teacher, student), [0.0, 2.0], atol=1e-5)
    columns_only = CorrelationDistillation(row_weight=0.0)
    np.testing.assert_allclose(columns_only(teacher, student[::-1]), [2.0, 2.0], atol=1e-5)


def test_correlation_does_not_depend_on_certainty():
    # Three classes whose probabilities are an affine map of the teacher's.
    teacher = np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]])
    student = 0.5 * teacher + 0.5 / 3
    values = CorrelationDistillation()(np.log(teacher), np.log(student))
    np.testing.assert_allclose(values, 0, atol=1e-5)


# ---- mean squares ----------------------------------------------------------


def test_logit_mse_by_hand():
    # ((1-0)^2 + (0-2)^2) / 2 = 2.5;  ((0-3)^2 + (1-4)^2) / 2 = 9
    values = LogitMSE()(np.eye(2), np.array([[0.0, 2.0], [3.0, 4.0]]))
    np.testing.assert_allclose(values, [2.5, 9.0], rtol=1e-6)


def test_standardized_mse_is_two_minus_twice_the_correlation():
    # With two classes the standardized logits are (1, -1) or (-1, 1): 0, or (4 + 4) / 2 = 4.
    teacher = np.array([[3.0, 1.0]] * 2)
    values = LogitMSE(standardize=True)(teacher, np.array([[10.0, -10.0], [1.0, 3.0]]))
    np.testing.assert_allclose(values, [0.0, 4.0], atol=1e-6)
    teacher, student = logits(1, 7)
    correlation = np.corrcoef(teacher[0], student[0])[0, 1]
    values = LogitMSE(standardize=True)(teacher, student)
    np.testing.assert_allclose(values, [2 - 2 * correlation], rtol=1e-5)


def test_soft_targets_approach_the_mse_of_centered_logits():
    # Hinton et al., equation 4: half the mean square of centered logits.
    teacher, student = (z - z.mean(axis=-1, keepdims=True) for z in logits(3, 6))
    np.testing.assert_allclose(
        SoftTargets(temperature=300.0)(teacher, student),
        0.5 * LogitMSE()(teacher, student),
        rtol=0.1,
    )


# ---- decoupled -------------------------------------------------------------


def test_decoupled_by_hand():
    # Label 0. p = (1/2, 1/4, 1/4): b = (1/2, 1/2), others (1/2, 1/2). q = (1/4, 1/4, 1/2):
    # b = (1/4, 3/4), others (1/3, 2/3).
    # KL of b = 1/2 ln 2 + 1/2 ln(2/3);  KL of others = 1/2 ln(3/2) + 1/2 ln(3/4).
    teacher, student = np.log([[2.0, 1.0, 1.0]]), np.log([[1.0, 1.0, 2.0]])
    sure, others = 0.5 * log(2) + 0.5 * log(2 / 3), 0.5 * log(1.5) + 0.5 * log(0.75)
    label = np.array([0])
    for weights in ((1.0, 0.0), (0.0, 1.0), (0.5, 8.0)):
        loss = DecoupledDistillation(1.0, *weights)
        expected = weights[0] * sure + weights[1] * others
        np.testing.assert_allclose(loss(teacher, student, label=label), [expected], rtol=1e-5)


def test_decoupled_of_two_classes_is_the_divergence():
    teacher, student = logits(4, 2)
    label = np.array([0, 1, 1, 0])
    values = DecoupledDistillation(other_weight=8.0)(teacher, student, label=label)
    np.testing.assert_allclose(values, oracles.divergence(teacher, student), rtol=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_decoupled_weighted_by_the_teachers_uncertainty_is_soft_targets(temperature):
    # Equation 6 of the paper: KL = KL(b) + (1 - p[label]) KL(others).
    teacher, student = logits(6, 5)
    label = np.array([0, 1, 2, 3, 4, 0])
    doubt = 1 - oracles_logits.softmax(teacher, temperature)[np.arange(6), label]
    whole = oracles.soft_targets(teacher, student, temperature)
    sure, others = oracles_logits.decoupled_parts(teacher, student, label, temperature)
    np.testing.assert_allclose(sure + doubt * others, whole, rtol=1e-10)
    sure, others = (
        DecoupledDistillation(temperature, *weights)(teacher, student, label=label)
        for weights in ((1.0, 0.0), (0.0, 1.0))
    )
    np.testing.assert_allclose(sure + doubt * others, whole, rtol=1e-4)


def test_decoupled_trains_the_other_classes_of_a_certain_teacher():
    # In float32 p[label] rounds to 1, and 1 - p[label] to 0.
    teacher = np.array([[1e4, 1.0, 0.0]], "float32")
    student = np.array([[1e4, 0.0, 1.0]], "float32")
    values, slope = value_and_gradient(
        lambda t, s: DecoupledDistillation()(t, s, label=np.array([0])), teacher, student
    )
    expected = oracles.divergence(teacher[0, 1:], student[0, 1:])
    np.testing.assert_allclose(values, [expected], rtol=1e-4)
    assert np.abs(slope[0, 1:]).min() > 0.1


# ---- top k -----------------------------------------------------------------


def test_top_k_by_hand():
    # p = (1/2, 1/4, 1/4), q = (1/4, 1/4, 1/2). Of the top one: (1/2, 1/2) and (1/4, 3/4), so
    # 1/2 ln 2 + 1/2 ln(2/3).
    teacher, student = np.log([[2.0, 1.0, 1.0]]), np.log([[1.0, 1.0, 2.0]])
    values = from_full(TopKSoftTargets(), teacher, student, k=1)
    np.testing.assert_allclose(values, [0.5 * log(2) + 0.5 * log(2 / 3)], rtol=1e-5)


def test_softened_rest_by_hand():
    # Temperature 2 takes square roots: p of (16, 4, 1) is (4, 2, 1)/7, q of (1, 1, 4) is
    # (1, 1, 2)/4. Of the top one: (4/7, 3/7) and (1/4, 3/4), times 2^2. The stored rest
    # is 2 ln(2 + 1), not the ln(4 + 1) of temperature 1.
    teacher, student = np.log([[16.0, 4.0, 1.0]]), np.log([[1.0, 1.0, 4.0]])
    kept = top_k_targets(teacher, 1, (1.0, 2.0))
    np.testing.assert_allclose(kept["top_rest_2"], [2 * log(3)], rtol=1e-5)
    np.testing.assert_allclose(kept["top_rest_1"], [log(5)], rtol=1e-5)
    values = from_full(TopKSoftTargets(temperature=2.0), teacher, student, k=1)
    expected = 4 * (4 / 7 * log(16 / 7) + 3 / 7 * log(4 / 7))
    np.testing.assert_allclose(values, [expected], rtol=1e-5)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_top_k_is_a_lower_bound_that_grows_to_soft_targets(temperature):
    teacher, student = logits(8, 12)
    whole = SoftTargets(temperature)(teacher, student).numpy()
    loss = TopKSoftTargets(temperature)
    values = [from_full(loss, teacher, student, k).numpy() for k in range(1, 13)]
    for fewer, more in zip(values, values[1:], strict=False):
        assert (fewer <= more + 1e-5).all()
    assert (values[5] < whole - 1e-3).any()
    np.testing.assert_allclose(values[-1], whole, rtol=1e-5)


def test_all_classes_give_the_gradient_of_soft_targets():
    teacher, student = logits(3, 6)
    _, slope = value_and_gradient(
        lambda t, s: from_full(TopKSoftTargets(), t, s, 6), teacher, student
    )
    _, expected = value_and_gradient(SoftTargets(), teacher, student)
    np.testing.assert_allclose(slope, expected, atol=1e-6)


def test_stored_classes_can_be_in_any_order():
    teacher, student = logits(3, 6)
    kept, order = top_k_targets(teacher, 4), [2, 0, 3, 1]
    values = TopKSoftTargets()(
        kept["top_logits"].numpy()[:, order],
        student,
        top_indices=kept["top_indices"].numpy()[:, order],
        top_rest=kept["top_rest_1"],
    )
    np.testing.assert_allclose(values, from_full(TopKSoftTargets(), teacher, student, 4), rtol=1e-5)


def test_rest_is_precise_if_the_top_has_nearly_all_probability():
    # The rest has e^-40 of the student's mass, which 1 - p would round to 0. The gradient by
    # the rest's logit is q - p, and the teacher's rest is 1/2: -1/2.
    teacher, student = np.zeros((1, 2), "float32"), np.array([[40.0, 0.0]], "float32")
    values, slope = value_and_gradient(
        lambda t, s: from_full(TopKSoftTargets(), t, s, 1), teacher, student
    )
    np.testing.assert_allclose(values, [log(0.5) + 0.5 * 40], rtol=1e-5)
    np.testing.assert_allclose(slope, [[0.5, -0.5]], rtol=1e-5)


def test_cache_in_half_precision_can_store_all_classes():
    teacher, student = logits(3, 6)
    kept = {name: tf.cast(values, "float16") for name, values in top_k_targets(teacher, 6).items()}
    assert np.isinf(kept["top_rest_1"]).all()
    indices = tf.cast(kept["top_indices"], "int32")
    values, slope = value_and_gradient(
        lambda t, s: TopKSoftTargets()(t, s, top_indices=indices, top_rest=kept["top_rest_1"]),
        kept["top_logits"],
        student,
    )
    np.testing.assert_allclose(values, oracles.soft_targets(teacher, student), rtol=2e-2)
    assert np.isfinite(slope).all()


def test_top_k_targets_work_in_a_dataset():
    teacher, _ = logits(4, 3, 6)
    rows = tf.data.Dataset.from_tensor_slices(teacher).batch(2)
    made = next(iter(rows.map(lambda z: top_k_targets(z, 2, (1.0, 2.5), prefix="best"))))
    assert set(made) == {"best_logits", "best_indices", "best_rest_1", "best_rest_2.5"}
    eager = top_k_targets(teacher[:2], 2, (1.0, 2.5), prefix="best")
    for name, values in made.items():
        np.testing.assert_allclose(values, eager[name], rtol=1e-6)


# ---- tokens ----------------------------------------------------------------


def test_token_targets_by_hand():
    # Two tokens of two classes. The first: p = (3/4, 1/4), q = (1/2, 1/2), so
    # a = 3/4 ln(3/2) + 1/4 ln(1/2); the second is equal: 0. Mean over both a/2, over the first a.
    teacher = np.log([[[3.0, 1.0], [1.0, 1.0]]] * 3)
    student = np.zeros((3, 2, 2))
    a = 0.75 * log(1.5) + 0.25 * log(0.5)
    values = TokenSoftTargets()(teacher, student, padding_mask=np.array([[1, 1], [1, 0], [0, 0]]))
    np.testing.assert_allclose(values, [a / 2, a, 0.0], rtol=1e-5)


def test_token_mse_by_hand():
    # Token 0 differs by (1, 3): (1 + 9) / 2 = 5. Token 1 by (2, 0): 4 / 2 = 2. Mean 3.5; 2 alone.
    student = np.array([[[1.0, 3.0], [2.0, 0.0]]] * 2)
    values = TokenLogitMSE()(0 * student, student, padding_mask=np.array([[1, 1], [0, 1]]))
    np.testing.assert_allclose(values, [3.5, 2.0], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["bool", "int32", "float32"])
def test_masks_of_every_dtype_give_the_same_loss(dtype):
    teacher, student = logits(2, 3, 4)
    mask = np.array([[1, 1, 0], [0, 1, 0]])
    values = TokenSoftTargets()(teacher, student, padding_mask=mask.astype(dtype))
    expected = oracles_logits.of_tokens(oracles.soft_targets, teacher, student, mask)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


def test_longer_padding_does_not_change_the_loss():
    teacher, student = logits(2, 3, 4)
    mask = np.array([[1, 1, 0], [1, 1, 1]])
    more = ((0, 0), (0, 2))
    longer = TokenSoftTargets()(
        *(np.pad(z, (*more, (0, 0)), constant_values=9.0) for z in (teacher, student)),
        padding_mask=np.pad(mask, more),
    )
    values = TokenSoftTargets()(teacher, student, padding_mask=mask)
    np.testing.assert_allclose(longer, values, rtol=1e-6)


def test_token_top_k_by_hand():
    # Two tokens, one of them padding; the stored class has probability 3/4.
    teacher = np.log(np.array([[[3.0, 1.0], [1.0, 9.0]]], "float32"))
    kept = top_k_targets(teacher, 1)
    student = np.zeros((1, 2, 2), "float32")
    value = TokenTopKSoftTargets()(
        kept["top_logits"],
        student,
        top_indices=kept["top_indices"],
        top_rest=kept["top_rest_1"],
        padding_mask=np.array([[1, 0]]),
    )
    # KL((3/4, 1/4) || (1/2, 1/2)); the rest is the other class.
    expected = 0.75 * np.log(1.5) + 0.25 * np.log(0.5)
    np.testing.assert_allclose(value, [expected], rtol=1e-5)
