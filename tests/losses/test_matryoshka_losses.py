"""Losses on prefixes of embeddings, and the rotation for them."""

from __future__ import annotations

from math import exp, log, sqrt

import numpy as np
import oracles
import pytest
from contracts import assert_one_line

from kdkeras.errors import InputError
from kdkeras.losses import (
    EmbeddingDistillation,
    Matryoshka,
    MatryoshkaAlignment,
    PerLayer,
    QueueDistillation,
    SpreadOut,
    TranslationRanking,
    principal_axes,
)

AXES = np.eye(2, dtype="float32")  # Cosine 1 with itself, 0 with the other.
EAST, NORTH = AXES[:1], AXES[1:]


def test_matryoshka_by_hand():
    # For width 1 the cosine of (3, 4) and (3, -4) is 1: loss 0. For width 2 it is
    # (9 - 16) / 25: loss 1 + 7/25 = 1.28, weighted by 0.5.
    teacher, student = np.array([[3.0, 4.0]]), np.array([[3.0, -4.0]])
    loss = Matryoshka(EmbeddingDistillation(), [1, 2], [3.0, 0.5])
    np.testing.assert_allclose(loss(teacher, student), [0.64], rtol=1e-6)
    # Exchanging the axes of both gives (4, 3) and (-4, 3): for width 1 the cosine is -1.
    rotated = Matryoshka(EmbeddingDistillation(), [1], rotation=AXES[::-1])
    np.testing.assert_allclose(rotated(teacher, student), [2.0], rtol=1e-6)


def test_matryoshka_normalizes_every_prefix():
    # The mse of (1, 0) and (0, 1) is (1 + 1) / 2, for vectors of any length.
    loss = Matryoshka(EmbeddingDistillation("mse"), [2])
    np.testing.assert_allclose(loss(9 * EAST, 0.1 * NORTH), [1.0], rtol=1e-5)


def test_matryoshka_alignment_by_hand():
    # For width 1 all cosines are 1: ln 2. For width 2 they are 1 and 1/r, r = sqrt(2), scale 1:
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
    # Orthogonal columns of decreasing length, rotated.
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
    assert_one_line(str(error.value), "one row per sentence", str(vectors.shape))


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
        assert_one_line(str(error.value), "embeddings of any width", type(inner).__name__)


@pytest.mark.parametrize("rotation", [np.ones((2, 2)), np.eye(3)[:2], AXES * np.nan])
def test_matrix_that_is_not_a_rotation_is_refused(rotation):
    with pytest.raises(InputError) as error:
        Matryoshka(EmbeddingDistillation(), [1], rotation=rotation)
    assert_one_line(str(error.value), "`rotation` must be", str(rotation.shape), "principal_axes")


def test_rotation_of_another_width_is_refused():
    with pytest.raises(InputError) as error:
        Matryoshka(EmbeddingDistillation(), [1], rotation=np.eye(3))(AXES, AXES)
    assert_one_line(str(error.value), "(2, 2)", "a rotation of width 3", "principal_axes")
