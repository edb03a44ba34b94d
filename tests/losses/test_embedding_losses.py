"""Losses on embeddings: cases worked by hand, and properties of single losses."""

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
    QueueContrast,
    QueueDistillation,
    RelationalAngle,
    RelationalDistance,
    SimilarityDistillation,
    SimilarityMatrix,
)

AXES = np.eye(2, dtype="float32")  # Cosine 1 with itself, 0 with the other.
EAST, NORTH = AXES[:1], AXES[1:]


# ---- embeddings and similarities -------------------------------------------


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


def test_l2_by_hand():
    values, slope = value_and_gradient(
        EmbeddingDistillation("l2"), np.zeros((2, 2), "float32"), np.array([[3.0, 4.0], [0, 0]])
    )
    np.testing.assert_allclose(values, [5.0, 0.0])
    np.testing.assert_allclose(slope, [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)


# ---- relations -------------------------------------------------------------


def test_similarity_matrix_by_hand():
    # Cosines of the teacher 1 and 0, of the student 1 and 1: (0 + 1) / 2 per row.
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
    # The first two student rows differ only by rounding: there is no direction between them.
    rows = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    same, nearly = rows.copy(), rows.copy()
    same[1], nearly[1] = same[0], np.nextafter(nearly[0], np.float32(9))
    for loss in (RelationalAngle(), RelationalDistance()):
        np.testing.assert_allclose(loss(rows, nearly), loss(rows, same), atol=1e-6)


# ---- queues ----------------------------------------------------------------


def test_queue_distillation_by_hand():
    # With an empty queue the only key is the example's own: loss 0. With (1, 0) in the
    # queue, temperature 1, teacher (0, 1), student (1, 0): p = (e, 1)/(e+1), q = (1, e)/(e+1),
    # KL = (p0 - p1) * 1 = (e - 1)/(e + 1).
    loss = QueueDistillation(2, size=3, temperature=1.0)
    np.testing.assert_allclose(loss(NORTH, EAST), [0.0], atol=1e-6)
    loss.enqueue(5 * EAST)
    np.testing.assert_allclose(loss(NORTH, EAST), [(exp(1) - 1) / (exp(1) + 1)], rtol=1e-6)


def test_queue_distillation_at_two_temperatures_by_hand():
    # Teacher at 1: p = (e, 1)/(e+1) as above. The student is the teacher, at 1/2:
    # log q = (2, 0) - ln(e^2 + 1).
    loss = QueueDistillation(2, size=3, temperature=1.0, student_temperature=0.5)
    loss.enqueue(EAST)
    p = np.array([exp(1), 1]) / (exp(1) + 1)
    expected = (p * (np.log(p) - np.array([2, 0]) + log(exp(2) + 1))).sum()
    np.testing.assert_allclose(loss(NORTH, NORTH), [expected], rtol=1e-5)


def test_queue_contrast_by_hand():
    # Temperature 1, own key (0, 1), one negative (1, 0). Student at the negative:
    # -log(1 / (1 + e)); at its own: -log(e / (e + 1)).
    loss = QueueContrast(2, size=3, temperature=1.0)
    np.testing.assert_allclose(loss(NORTH, EAST), [0.0], atol=1e-6)
    loss.enqueue(EAST)
    np.testing.assert_allclose(loss(NORTH, EAST), [log(1 + exp(1))], rtol=1e-6)
    np.testing.assert_allclose(loss(NORTH, NORTH), [log(1 + exp(-1))], rtol=1e-6)


def test_repeated_sentence_is_not_its_own_negative():
    loss = QueueContrast(2, size=3, temperature=1.0)
    loss.enqueue(AXES)
    np.testing.assert_allclose(loss(NORTH, EAST), [log(1 + exp(1))], rtol=1e-6)
    # Also twice in one batch.
    np.testing.assert_allclose(loss(AXES[[1, 1]], AXES[[0, 0]]), [log(1 + exp(1))] * 2, rtol=1e-6)


def test_contrast_pushes_away_from_a_near_neighbor():
    # The minimum is not at the teacher: there the gradient points away from the neighbor.
    loss = QueueContrast(2, size=3)
    loss.enqueue([[0.6, 0.8]])
    _, slope = value_and_gradient(loss, NORTH, NORTH)
    assert slope[0, 0] > 0.1


def test_queue_drops_the_oldest_rows_and_stores_unit_vectors():
    loss = QueueDistillation(2, size=3)
    np.testing.assert_array_equal(loss.queue, np.zeros((3, 2)))
    loss.enqueue([[2.0, 0.0], [0.0, 3.0]])
    np.testing.assert_allclose(loss.queue, [[0, 0], [1, 0], [0, 1]], atol=1e-6)
    loss.enqueue([[-1.0, 0.0], [0.0, -1.0]])
    np.testing.assert_allclose(loss.queue, [[0, 1], [-1, 0], [0, -1]], atol=1e-6)


def test_batch_larger_than_the_queue_leaves_its_last_rows():
    loss = QueueDistillation(2, size=2)
    loss.enqueue([[-1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(loss.queue, AXES, atol=1e-6)


def test_non_finite_step_leaves_the_queue_unchanged():
    loss = QueueDistillation(2, size=2)
    loss.enqueue(AXES)
    loss.enqueue(AXES * np.nan, kept=tf.constant(False))
    np.testing.assert_allclose(loss.queue, AXES, atol=1e-6)


def test_empty_queue_equals_similarity_distillation():
    teacher, student = np.random.default_rng(0).normal(size=(2, 4, 3))
    np.testing.assert_allclose(
        QueueDistillation(3)(teacher, student),
        SimilarityDistillation()(teacher, student),
        rtol=1e-5,
    )


def test_queue_is_saved_but_not_trained():
    loss = QueueContrast(2, size=3)
    assert loss.trainable_weights == [] and [w.shape for w in loss.weights] == [(3, 2)]


@pytest.mark.parametrize("make", [QueueDistillation, QueueContrast])
def test_queue_of_another_width_is_refused(make):
    with pytest.raises(InputError) as error:
        make(3, name="far")(AXES, AXES)
    assert_one_line(str(error.value), "(2, 2)", "dim=3 in `far`", "Set dim=2")


@pytest.mark.parametrize("arguments", [{"dim": 0}, {"dim": 2, "size": 0}])
def test_queue_of_size_zero_is_refused(arguments):
    with pytest.raises(InputError) as error:
        QueueDistillation(**arguments)
    key = list(arguments)[-1]
    assert_one_line(str(error.value), f"`{key}` must be at least 1", f"{key}=0")


@pytest.mark.parametrize("argument", ["temperature", "student_temperature"])
def test_queue_temperatures_must_be_positive(argument):
    with pytest.raises(InputError) as error:
        QueueDistillation(2, **{argument: 0.0})
    assert_one_line(str(error.value), f"`{argument}` must be positive", f"{argument}=0.0")
    with pytest.raises(InputError) as error:
        QueueContrast(2, temperature=-1.0)
    assert_one_line(str(error.value), "`temperature` must be positive", "temperature=-1.0")


def test_guide_margin_of_zero_is_refused():
    with pytest.raises(InputError) as error:
        QueueContrast(2, guide_margin=0.0)
    assert_one_line(str(error.value), "`guide_margin` must be above 0", "guide_margin=0.0", "0.01")
