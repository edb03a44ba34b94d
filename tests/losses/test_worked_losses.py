"""Cases of two by two, worked by hand, and each loss's own promises."""

from __future__ import annotations

from math import exp, log

import numpy as np
import oracles
import pytest
import tensorflow as tf
from contracts import assert_one_line, value_and_gradient

from kdkeras.errors import InputError
from kdkeras.losses import (
    EmbeddingDistillation,
    SimilarityDistillation,
    SoftTargets,
    TranslationRanking,
)

AXES = np.eye(2, dtype="float32")  # cosine 1 with itself, 0 with the other


def test_embedding_cosine_by_hand():
    # cos((1,0),(0,2)) = 0 -> 1;  cos((0,1),(3,4)) = 4/5 -> 0.2
    values = EmbeddingDistillation()(AXES, np.array([[0.0, 2.0], [3.0, 4.0]]))
    np.testing.assert_allclose(values, [1.0, 0.2], atol=1e-6)


def test_embedding_mse_by_hand():
    # ((1-0)^2 + (0-2)^2) / 2 = 2.5;  ((0-3)^2 + (1-4)^2) / 2 = 9
    values = EmbeddingDistillation("mse")(AXES, np.array([[0.0, 2.0], [3.0, 4.0]]))
    np.testing.assert_allclose(values, [2.5, 9.0], rtol=1e-6)


def test_mse_of_unit_vectors_is_cosine_times_two_over_width():
    teacher, student = oracles.unit(np.random.default_rng(0).normal(size=(2, 3, 8)))
    mse, cosine = (EmbeddingDistillation(m)(teacher, student) for m in ("mse", "cosine"))
    np.testing.assert_allclose(mse, 2 / 8 * cosine, rtol=1e-5)


def test_similarity_by_hand():
    # Temperature 1. Row 0: cosines to the two teachers, teacher (1, 0), student (0, 1).
    # p = (e, 1)/(e+1), q = (1, e)/(e+1): KL = (p0-p1) * 1 = (e-1)/(e+1).  Row 1 is equal: 0.
    values = SimilarityDistillation(temperature=1.0)(AXES, np.array([[0.0, 1.0], [0.0, 1.0]]))
    np.testing.assert_allclose(values, [(exp(1) - 1) / (exp(1) + 1), 0.0], atol=1e-6)


def test_similarity_default_temperature_by_hand():
    # 1/0.05 = 20: p = (1, e^-20), q = (1/2, 1/2) for a student between both: KL = ln 2.
    values = SimilarityDistillation()(AXES, np.array([[1.0, 1.0], [1.0, 1.0]]))
    np.testing.assert_allclose(values, [log(2), log(2)], rtol=1e-5)


def test_excluding_self_of_two_leaves_one_choice_and_no_loss():
    student = np.array([[0.3, 1.0], [1.0, 0.2]])
    np.testing.assert_allclose(SimilarityDistillation(exclude_self=True)(AXES, student), 0)
    assert SimilarityDistillation()(AXES, student).numpy().min() > 1


def test_self_stays_excluded_at_a_very_small_temperature():
    teacher, student = np.random.default_rng(0).normal(size=(2, 4, 3))
    loss = SimilarityDistillation(temperature=1e-4, exclude_self=True)
    expected = oracles.similarity(teacher, student, 1e-4, exclude_self=True)
    np.testing.assert_allclose(loss(teacher, student), expected, rtol=1e-3, atol=0.05)


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
    # As temperature grows it approaches (student - teacher) / V (Hinton et al., equation 4).
    teacher, student = np.array([[1.0, -1.0]], "float32"), np.array([[-0.5, 0.5]], "float32")
    _, slope = value_and_gradient(SoftTargets(temperature=100.0), teacher, student)
    np.testing.assert_allclose(slope, (student - teacher) / 2, rtol=1e-3)


def test_adding_a_constant_to_logits_does_not_change_soft_targets():
    teacher, student = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32")
    np.testing.assert_allclose(
        SoftTargets()(teacher + 7, student - 3), SoftTargets()(teacher, student), atol=1e-5
    )


def test_ranking_by_hand():
    # scale 1, margin 0, source = translation = axes: scores ((1,0),(0,1)) in both directions,
    # -log(e / (e + 1)) = ln(1 + 1/e).
    values = TranslationRanking(margin=0.0, scale=1.0)(AXES, AXES)
    np.testing.assert_allclose(values, [log(1 + exp(-1))] * 2, rtol=1e-5)


def test_ranking_defaults_by_hand():
    # 20 * (0 - 0.3) = -6 for the pair and 20 for the wrong one: ln(1 + e^26) = 26.
    values = TranslationRanking()(AXES, AXES[::-1])
    np.testing.assert_allclose(values, [26.0, 26.0], rtol=1e-5)


def test_ranking_averages_both_directions():
    # Both sources are (1,0), translations (1,0) and (0,1), scale 1, margin 0. Scores ((1,0),(1,0)).
    # From the source: ln(1+1/e), ln(1+e). From the translation: both columns tie, ln 2.
    values = TranslationRanking(margin=0.0, scale=1.0)(np.array([[1.0, 0.0]] * 2), AXES)
    np.testing.assert_allclose(
        values, [(log(1 + exp(-1)) + log(2)) / 2, (log(1 + exp(1)) + log(2)) / 2], rtol=1e-5
    )


def test_rows_of_one_source_are_no_negatives():
    values = TranslationRanking()(AXES, AXES[::-1], source_id=np.array([5, 5]))
    np.testing.assert_allclose(values, 0, atol=1e-6)


def test_guide_removes_what_the_teacher_finds_equal():
    # cos of the teacher's rows is 0.8: masked from a guide margin of 0.2 on, not below.
    teacher = np.array([[1.0, 0.0], [0.8, 0.6]])
    near, far = (
        TranslationRanking(guide_margin=m)(AXES, AXES[::-1], teacher=teacher) for m in (0.3, 0.1)
    )
    np.testing.assert_allclose(near, 0, atol=1e-6)
    np.testing.assert_allclose(far, 26, rtol=1e-5)


def test_a_large_scale_does_not_bring_masked_rows_back():
    values = TranslationRanking(scale=1e5)(AXES, AXES[::-1], source_id=np.array([5, 5]))
    np.testing.assert_allclose(values, 0, atol=1e-6)


def test_guide_gets_no_gradient():
    guide = tf.constant(AXES)
    with tf.GradientTape() as tape:
        tape.watch(guide)
        values = TranslationRanking(guide_margin=0.1)(AXES, AXES[::-1], teacher=guide)
    assert tape.gradient(values, guide) is None


def test_guide_margin_needs_the_teacher():
    with pytest.raises(InputError) as error:
        TranslationRanking(guide_margin=0.1)(AXES, AXES)
    assert_one_line(str(error.value), "`guide_margin`", "teacher=None", "guide_margin=None")


def test_ranking_one_pair_is_refused():
    with pytest.raises(InputError) as error:
        TranslationRanking()(AXES[:1], AXES[:1])
    assert_one_line(str(error.value), "at least two pairs", "batch size 1", "Raise")
