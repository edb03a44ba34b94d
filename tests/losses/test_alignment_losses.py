"""Losses between languages: cases worked by hand, and properties of single losses."""

from __future__ import annotations

from math import exp, log

import numpy as np
import pytest
import tensorflow as tf
from contracts import assert_one_line, value_and_gradient

from kdkeras.errors import InputError
from kdkeras.losses import (
    BarlowTwins,
    SpreadOut,
    TranslationRanking,
    VICReg,
)

AXES = np.eye(2, dtype="float32")  # Cosine 1 with itself, 0 with the other.
EAST, NORTH = AXES[:1], AXES[1:]


# ---- ranking ---------------------------------------------------------------


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


def test_examples_of_one_source_are_not_negatives():
    values = TranslationRanking()(AXES, AXES[::-1], source_id=np.array([5, 5]))
    np.testing.assert_allclose(values, 0, atol=1e-6)


def test_guide_removes_negatives_that_are_similar_for_the_teacher():
    # The cosine of the teacher's rows is 0.8: masked with a guide margin above 0.2.
    teacher = np.array([[1.0, 0.0], [0.8, 0.6]])
    near, far = (
        TranslationRanking(guide_margin=m)(AXES, AXES[::-1], teacher=teacher) for m in (0.3, 0.1)
    )
    np.testing.assert_allclose(near, 0, atol=1e-6)
    np.testing.assert_allclose(far, 26, rtol=1e-5)


def test_large_scale_keeps_negatives_masked():
    values = TranslationRanking(scale=1e5)(AXES, AXES[::-1], source_id=np.array([5, 5]))
    np.testing.assert_allclose(values, 0, atol=1e-6)


def test_guide_gets_no_gradient():
    guide = tf.constant(AXES)
    with tf.GradientTape() as tape:
        tape.watch(guide)
        values = TranslationRanking(guide_margin=0.1)(AXES, AXES[::-1], teacher=guide)
    assert tape.gradient(values, guide) is None


def test_guide_margin_needs_teacher_embeddings():
    with pytest.raises(InputError) as error:
        TranslationRanking(guide_margin=0.1)(AXES, AXES)
    assert_one_line(str(error.value), "`guide_margin`", "teacher=None", "guide_margin=None")


def test_ranking_of_one_pair_is_zero():
    # A Distiller therefore refuses to train on such batches.
    assert TranslationRanking.compares_rows
    assert float(TranslationRanking()(AXES[:1], -AXES[:1])[0]) == 0.0


# ---- statistics of the batch -----------------------------------------------


def test_spread_out_by_hand():
    # Exchanged translations: both other cosines are 1, so 1^2 + (1 - 1/2). Correct ones: both are
    # 0, and the second moment is below 1/2.
    np.testing.assert_allclose(SpreadOut()(AXES, AXES[::-1]), [1.5, 1.5], rtol=1e-6)
    np.testing.assert_allclose(SpreadOut()(AXES, -AXES[::-1]), [1.5, 1.5], rtol=1e-6)
    np.testing.assert_allclose(SpreadOut()(AXES, AXES), [0.0, 0.0], atol=1e-6)


def test_examples_of_one_source_are_not_spread():
    values = SpreadOut()(AXES, AXES[::-1], source_id=np.array([5, 5]))
    np.testing.assert_allclose(values, [0.0, 0.0], atol=1e-6)


def test_uniform_points_have_no_spread_out_loss():
    rows = np.random.default_rng(0).normal(size=(2, 2000, 8))
    assert SpreadOut()(*rows).numpy().max() < 1e-3
    assert SpreadOut()(*(rows + 1.0)).numpy().min() > 0.2


def test_vicreg_by_hand():
    # Rows (2,0), (0,0) and (0,0), (0,2): squared differences 4 and 4. On each side one dimension
    # has variance 2, above the target; the other 0, missing 1 - sqrt(0.0001) = 0.99: mean 0.495.
    # The covariance is 0: 25 * 4 + 25 * (0.495 + 0.495).
    source, translation = [[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]
    values = VICReg()(np.array(source), np.array(translation))
    np.testing.assert_allclose(values, [124.75, 124.75], rtol=1e-6)
    # Rows (1,1), (-1,-1) on both sides: variances 2 and covariance 2: (4 + 4) / 2 per side.
    rows = np.array([[1.0, 1.0], [-1.0, -1.0]])
    np.testing.assert_allclose(VICReg()(rows, rows), [8.0, 8.0], rtol=1e-6)


def test_variance_moves_equal_embeddings_apart():
    # Nearly equal: moving apart lowers the loss.
    rows = np.random.default_rng(0).normal(size=(6, 3)).astype("float32") * 0.01
    _, slope = value_and_gradient(VICReg(), rows, rows)
    assert ((rows - rows.mean(0)) * slope).sum() < -0.1


def test_barlow_twins_by_hand():
    # The correlation of two rows is 1 or -1. Equal dimensions on both sides: c is 1 everywhere,
    # 0.005 * (1 + 1). With the translation's second dimension negated, c = ((1,-1),(1,-1)): the
    # diagonal adds (1 + 1)^2.
    rows = np.array([[1.0, 1.0], [-1.0, -1.0]])
    np.testing.assert_allclose(BarlowTwins()(rows, rows), [0.01, 0.01], rtol=1e-4)
    turned = rows * [1.0, -1.0]
    np.testing.assert_allclose(BarlowTwins()(rows, turned), [4.01, 4.01], rtol=1e-5)


def test_barlow_twins_does_not_depend_on_scale_and_mean():
    source, translation = np.random.default_rng(0).normal(size=(2, 6, 3))
    np.testing.assert_allclose(
        BarlowTwins()(7 * source + 2, translation * [1, 5, 0.1] - 3),
        BarlowTwins()(source, translation),
        rtol=1e-4,
    )


def test_constant_dimension_has_no_correlation_and_no_gradient():
    rows = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    rows[:, 1] = 1e4 / 3
    values, slope = value_and_gradient(BarlowTwins(), rows, rows)
    np.testing.assert_allclose(values, 1.0, rtol=1e-5)
    np.testing.assert_array_equal(slope[:, 1], 0)


@pytest.mark.parametrize("make", [SpreadOut, VICReg, BarlowTwins])
def test_batch_of_one_pair_has_finite_values_and_gradients(make):
    values, slope = value_and_gradient(make(), EAST, NORTH)
    assert np.isfinite(values).all() and np.isfinite(slope).all()
