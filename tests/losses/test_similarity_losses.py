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
    CorrelationDistillation,
    EmbeddingDistillation,
    RelationalAngle,
    RelationalDistance,
    SimilarityDistillation,
    SimilarityMatrix,
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


def test_excluding_self_from_two_rows_gives_no_loss():
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


def test_examples_of_one_source_are_not_negatives():
    values = TranslationRanking()(AXES, AXES[::-1], source_id=np.array([5, 5]))
    np.testing.assert_allclose(values, 0, atol=1e-6)


def test_guide_removes_negatives_that_are_similar_for_the_teacher():
    # cos of the teacher's rows is 0.8: masked from a guide margin of 0.2 on, not below.
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


def test_l2_by_hand():
    values, slope = value_and_gradient(
        EmbeddingDistillation("l2"), np.zeros((2, 2), "float32"), np.array([[3.0, 4.0], [0, 0]])
    )
    np.testing.assert_allclose(values, [5.0, 0.0])
    np.testing.assert_allclose(slope, [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)


def test_ranking_of_one_pair_is_zero():
    # Which is why a Distiller refuses to train on such batches.
    assert TranslationRanking.compares_rows
    assert float(TranslationRanking()(AXES[:1], -AXES[:1])[0]) == 0.0


def test_correlation_with_a_very_certain_teacher_is_one():
    logits = np.random.default_rng(0).normal(size=(32, 1000))
    logits[np.arange(32), np.arange(32)] = 18.0  # Columns of 1e-8 vary, too.
    assert float(np.max(CorrelationDistillation()(logits, logits))) < 1e-5


def test_standardized_targets_by_hand():
    # (3, 1) and (10, -10) both become (1, -1): nothing to learn. (1, 3) becomes (-1, 1):
    # KL = (p - q) * 2 with p = e / (e + 1/e), q = 1 - p.
    loss = SoftTargets(standardize=True)
    values = loss(np.array([[3.0, 1.0]] * 2), np.array([[10.0, -10.0], [1.0, 3.0]]))
    p = exp(1) / (exp(1) + exp(-1))
    np.testing.assert_allclose(values, [0.0, 2 * (2 * p - 1)], rtol=1e-5, atol=1e-6)


def test_equal_logits_are_standardized_to_zero():
    values = SoftTargets(standardize=True)(np.array([[5.0, 5.0]]), np.array([[2.0, 2.0]]))
    np.testing.assert_allclose(values, 0, atol=1e-6)


def test_correlation_by_hand():
    # Of two classes the probabilities are p and 1 - p: by rows the correlation is 1 or -1. The
    # student prefers class 0 in both rows, less in the second: columns fall as the teacher's do.
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


def test_similarity_matrix_by_hand():
    # Cosines of the teacher 1 and 0, of the student 1 and 1: (0 + 1) / 2 a row.
    values = SimilarityMatrix()(AXES, np.array([[1.0, 0.0, 0.0], [5.0, 0.0, 0.0]]))
    np.testing.assert_allclose(values, [0.5, 0.5], rtol=1e-6)


def test_relational_distance_by_hand():
    # On a line at 0, 1, 3: distances 1, 2, 3 of mean 2, so 1/2, 1, 3/2. At 0, 1, 2: 1, 1, 2 of
    # mean 4/3, so 3/4, 3/4, 3/2. Pairs (01), (12), (02) differ by 1/4, -1/4, 0: 1/32, 1/32, 0.
    teacher, student = np.array([[0.0], [1.0], [3.0]]), np.array([[0.0], [1.0], [2.0]])
    values = RelationalDistance()(teacher, student)
    np.testing.assert_allclose(values, [1 / 64, 1 / 32, 1 / 64], rtol=1e-4)


def test_relational_angle_by_hand():
    # A right angle at the first point, 45 degrees at the others: cosines 0, r, r with
    # r = 1/sqrt(2). The student's points are on a line, the first between the others: -1, 1, 1.
    teacher = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    student = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0]])
    near = (1 - 0.5**0.5) ** 2 / 2
    np.testing.assert_allclose(RelationalAngle()(teacher, student), [0.5, near, near], rtol=1e-5)


def test_two_examples_have_no_angle():
    np.testing.assert_array_equal(RelationalAngle()(AXES, 3 * AXES[::-1]), [0.0, 0.0])


@pytest.mark.parametrize("loss", [RelationalDistance(), RelationalAngle(), SimilarityMatrix()])
def test_relations_are_invariant_to_rotation_and_scale(loss):
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(5, 3))
    rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
    np.testing.assert_allclose(loss(rows, 7 * rows @ rotation), 0, atol=1e-6)
    if not isinstance(loss, SimilarityMatrix):
        np.testing.assert_allclose(loss(rows, rows + 2.0), 0, atol=1e-6)


@pytest.mark.parametrize("make", [RelationalDistance, RelationalAngle, SimilarityMatrix])
def test_relations_compare_different_widths(make):
    rows = np.random.default_rng(0).normal(size=(5, 3))
    wide = np.concatenate([rows, np.zeros((5, 4))], axis=1)
    np.testing.assert_allclose(make()(rows, wide), 0, atol=1e-6)
    with pytest.raises(InputError) as error:
        make()(rows, wide[:, None])
    assert_one_line(str(error.value), "(5, 3)", "(5, 1, 7)", "Pool the tokens")


def test_rounding_errors_are_not_directions():
    # The first two student rows differ by rounding alone: no angle points from one to the other.
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    same, nearly = rows.copy(), rows.copy()
    same[1], nearly[1] = same[0], np.nextafter(nearly[0], np.float32(9))
    for loss in (RelationalAngle(), RelationalDistance()):
        np.testing.assert_allclose(loss(rows, nearly), loss(rows, same), atol=1e-6)
