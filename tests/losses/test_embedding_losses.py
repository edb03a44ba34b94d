"""Queues, statistics of the batch and prefixes: cases of two by two, and own promises."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np
import oracles
import pytest
import tensorflow as tf
from contracts import assert_one_line, value_and_gradient

from kdkeras.errors import InputError
from kdkeras.losses import (
    BarlowTwins,
    EmbeddingDistillation,
    Matryoshka,
    MatryoshkaAlignment,
    PerLayer,
    QueueContrast,
    QueueDistillation,
    SimilarityDistillation,
    SpreadOut,
    TranslationRanking,
    VICReg,
    principal_axes,
)

AXES = np.eye(2, dtype="float32")  # cosine 1 with itself, 0 with the other
EAST, NORTH = AXES[:1], AXES[1:]


# ---- queues -------------------------------------------------------------


def test_queue_distillation_by_hand():
    # Alone a row has one key, its own vector: nothing to learn. With the teacher's (1, 0) in the
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
    # Temperature 1, the row's own key (0, 1), one negative (1, 0). Student at the negative:
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
    # In one batch twice, too.
    np.testing.assert_allclose(loss(AXES[[1, 1]], AXES[[0, 0]]), [log(1 + exp(1))] * 2, rtol=1e-6)


def test_contrast_pushes_away_from_a_near_neighbor():
    # Its minimum is not the teacher: at the teacher the slope points away from the neighbour.
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


# ---- statistics of the batch --------------------------------------------


def test_spread_out_by_hand():
    # Translations exchanged: both other cosines are 1, so 1^2 + (1 - 1/2). In their place: both
    # are 0, and the second moment is below 1/2.
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
    # Rows (2,0), (0,0) and (0,0), (0,2): squared differences 4 and 4. In each side one dimension
    # has variance 2, enough; the other 0, lacking 1 - sqrt(0.0001) = 0.99, the mean 0.495.
    # No covariance: 25 * 4 + 25 * (0.495 + 0.495).
    source, translation = [[2.0, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 2.0]]
    values = VICReg()(np.array(source), np.array(translation))
    np.testing.assert_allclose(values, [124.75, 124.75], rtol=1e-6)
    # Rows (1,1), (-1,-1) on both sides: variances 2 and covariance 2: (4 + 4) / 2 a side.
    rows = np.array([[1.0, 1.0], [-1.0, -1.0]])
    np.testing.assert_allclose(VICReg()(rows, rows), [8.0, 8.0], rtol=1e-6)


def test_variance_moves_equal_embeddings_apart():
    # All but equal, and moving apart is the way down.
    rows = np.random.default_rng(0).normal(size=(6, 3)).astype("float32") * 0.01
    _, slope = value_and_gradient(VICReg(), rows, rows)
    assert ((rows - rows.mean(0)) * slope).sum() < -0.1


def test_barlow_twins_by_hand():
    # Of two rows a correlation is 1 or -1. Both dimensions alike on both sides: c is 1 everywhere,
    # 0.005 * (1 + 1). The translation's second turned round: c = ((1,-1),(1,-1)), and the second
    # dimension disagrees with itself: (1 + 1)^2 more.
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


# ---- prefixes -----------------------------------------------------------


def test_matryoshka_by_hand():
    # Of width 1 the cosine of (3, 4) and (3, -4) is that of 3 and 3: 0. Of width 2 it is
    # (9 - 16) / 25: 1 + 7/25 = 1.28.
    teacher, student = np.array([[3.0, 4.0]]), np.array([[3.0, -4.0]])
    loss = Matryoshka(EmbeddingDistillation(), [1, 2], [3.0, 0.5])
    np.testing.assert_allclose(loss(teacher, student), [0.64], rtol=1e-6)
    # Rotated by exchanging the axes, the teacher is (4, 3): cosine (12 - 12) / 25.
    rotated = Matryoshka(EmbeddingDistillation(), [2], rotation=AXES[::-1])
    np.testing.assert_allclose(rotated(teacher, student), [1.0], rtol=1e-6)


def test_matryoshka_normalizes_every_prefix():
    # mse of (1, 0) and (0, 1) is (1 + 1) / 2, whatever the lengths were.
    loss = Matryoshka(EmbeddingDistillation("mse"), [2])
    np.testing.assert_allclose(loss(9 * EAST, 0.1 * NORTH), [1.0], rtol=1e-5)


def test_matryoshka_alignment_by_hand():
    # Of width 1 all cosines are 1: ln 2. Of width 2, scale 1: (1, 1/r) and the like, r = sqrt(2),
    # -log(e / (e + e^(1/r))) = ln(1 + e^(1/r - 1)).
    rows = np.array([[1.0, 0.0], [1.0, 1.0]])
    loss = MatryoshkaAlignment(TranslationRanking(margin=0.0, scale=1.0), [1, 2])
    expected = log(2) + log(1 + exp(1 / sqrt(2) - 1))
    np.testing.assert_allclose(loss(rows, rows), [expected] * 2, rtol=1e-5)


def test_wrapped_losses_keep_their_needs_and_target():
    guided = TranslationRanking(guide_margin=0.1)
    wrapped = MatryoshkaAlignment(guided, [1])
    assert (wrapped.needs, wrapped.takes) == (guided.needs, guided.takes)
    inner = EmbeddingDistillation(target="pooled")
    assert Matryoshka(inner, [1]).target == "pooled"
    assert Matryoshka(inner, [1]).needs == Matryoshka(inner, [1]).takes == {}
    inner.source_only = True
    assert Matryoshka(inner, [1]).source_only


def test_rotation_is_saved_as_a_weight(tmp_path):
    rotation = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    loss = Matryoshka(EmbeddingDistillation(), [2], rotation=rotation)
    assert loss.trainable_weights == []
    copy = Matryoshka.from_config(loss.get_config())
    np.testing.assert_array_equal(copy.axes, np.eye(3))
    copy.set_weights(loss.get_weights())
    rows = np.random.default_rng(1).normal(size=(2, 4, 3))
    np.testing.assert_array_equal(copy(*rows), loss(*rows))


def test_principal_axes_recover_a_known_rotation():
    generator = np.random.default_rng(0)
    hidden = np.linalg.qr(generator.normal(size=(4, 4)))[0]
    # Orthogonal columns of decreasing length, turned.
    columns = np.linalg.qr(generator.normal(size=(50, 4)))[0] * [8.0, 4.0, 2.0, 1.0]
    axes = principal_axes(columns @ hidden.T)
    np.testing.assert_allclose(np.abs(axes.T @ hidden), np.eye(4), atol=1e-5)
    assert (axes[np.abs(axes).argmax(axis=0), np.arange(4)] > 0).all()


def test_principal_axes_of_the_teacher_improve_a_prefix(sample_set):
    vectors = np.stack([vector for _, vector in sample_set.records()])
    axes = principal_axes(vectors[:-300])
    np.testing.assert_allclose(axes.T @ axes, np.eye(len(axes)), atol=1e-5)
    held_out = vectors[-300:].astype(float)
    upper = np.triu_indices(300, 1)

    def agreement(rows):
        whole, prefix = (oracles.unit(x) @ oracles.unit(x).T for x in (held_out, rows[:, :64]))
        return np.corrcoef(whole[upper], prefix[upper])[0, 1]

    assert agreement(held_out @ axes) > 0.9 > 0.7 > agreement(held_out)


@pytest.mark.parametrize("vectors", [np.ones(3), np.ones((0, 3)), np.array([[np.nan, 1.0]])])
def test_axes_of_unusable_vectors_are_refused(vectors):
    with pytest.raises(InputError) as error:
        principal_axes(vectors)
    assert_one_line(str(error.value), "one a row", str(vectors.shape))


@pytest.mark.parametrize("dims", [[], [0, 2], [2, 2]])
def test_impossible_widths_are_refused(dims):
    with pytest.raises(InputError) as error:
        Matryoshka(EmbeddingDistillation(), dims)
    assert_one_line(str(error.value), "`dims` must be", f"dims={dims}")


@pytest.mark.parametrize(
    "loss",
    [Matryoshka(EmbeddingDistillation(), [1, 3]), MatryoshkaAlignment(SpreadOut(), [3])],
    ids=["distillation", "alignment"],
)
def test_width_above_that_of_the_vectors_is_refused(loss):
    with pytest.raises(InputError) as error:
        loss(AXES, AXES)
    assert_one_line(str(error.value), "`dims`", f"student {AXES.shape}", "at most 2")


def test_wrong_number_or_sign_of_weights_is_refused():
    with pytest.raises(InputError) as error:
        Matryoshka(EmbeddingDistillation(), [1, 2], [1.0])
    assert_one_line(str(error.value), "`dim_weights`", "1 weights", "dims=[1, 2]")
    with pytest.raises(InputError) as error:
        MatryoshkaAlignment(SpreadOut(), [1], [0.0])
    assert_one_line(str(error.value), "`dim_weights` must be positive", "dim_weights=0.0")


@pytest.mark.parametrize(
    "inner",
    [
        QueueDistillation(2),
        EmbeddingDistillation(projection=(2, 2)),
        PerLayer(EmbeddingDistillation()),
        len,
    ],
)
def test_losses_of_fixed_width_cannot_be_wrapped(inner):
    for wrapper in (Matryoshka, MatryoshkaAlignment):
        with pytest.raises(InputError) as error:
            wrapper(inner, [1])
        assert_one_line(str(error.value), "vectors of any width", type(inner).__name__)


@pytest.mark.parametrize("rotation", [np.ones((2, 2)), np.eye(3)[:2], AXES * np.nan])
def test_matrix_that_is_not_a_rotation_is_refused(rotation):
    with pytest.raises(InputError) as error:
        Matryoshka(EmbeddingDistillation(), [1], rotation=rotation)
    assert_one_line(str(error.value), "`rotation` must be", str(rotation.shape), "principal_axes")


def test_rotation_of_another_width_is_refused():
    with pytest.raises(InputError) as error:
        Matryoshka(EmbeddingDistillation(), [1], rotation=np.eye(3))(AXES, AXES)
    assert_one_line(str(error.value), "(2, 2)", "a rotation of 3", "principal_axes")
