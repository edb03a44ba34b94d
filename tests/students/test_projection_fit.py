"""Closed-form initialization and changes of the projection."""

from __future__ import annotations

import numpy as np
import oracles
import pytest
from contracts import assert_one_line
from scipy.linalg import orthogonal_procrustes
from small_students import make_student

import kdkeras
from kdkeras.errors import InputError
from kdkeras.students import (
    StaticStudent,
    TransformerStudent,
    fit_projection,
    fold_projection,
    rotate_projection,
)

METHODS = ["procrustes", "ridge", "whitening"]


def static(output_dim=6, normalize=False, **arguments):
    """A student that pools vectors of width 6."""
    return make_student(StaticStudent, output_dim=output_dim, normalize=normalize, **arguments)


def rows(n=200, width=6, seed=0):
    """Vectors with a mean and correlated dimensions."""
    generator = np.random.default_rng(seed)
    return generator.normal(size=(n, width)) @ generator.normal(size=(width, width)) + 1.5


def rotation(width, columns=None, seed=1):
    square = np.linalg.qr(np.random.default_rng(seed).normal(size=(width, width)))[0]
    return square[:, :columns]


def outputs(student, pooled):
    kernel, bias = student.projection.get_weights()
    return pooled @ kernel.astype(float) + bias


@pytest.mark.parametrize("method", ["procrustes", "ridge"])
def test_fit_recovers_rotation_scale_and_shift(method):
    student, pooled = static(), rows()
    hidden, shift = 3.0 * rotation(6), np.arange(6)
    fit = fit_projection(student, pooled, pooled @ hidden + shift, method=method, ridge=1e-9)
    kernel, bias = student.projection.get_weights()
    np.testing.assert_allclose(kernel, hidden, atol=1e-4)
    np.testing.assert_allclose(bias, shift, atol=1e-4)
    assert fit.rows == 200 and fit.cosine_after == pytest.approx(1.0, abs=1e-6)
    assert fit.cosine_before < 0.9


def test_procrustes_into_a_wider_space_keeps_all_angles():
    student, pooled = static(output_dim=9), rows()
    hidden = rotation(9)[:6]
    fit_projection(student, pooled, pooled @ hidden, method="procrustes")
    np.testing.assert_allclose(student.projection.get_weights()[0], hidden, atol=1e-5)


def test_procrustes_of_noisy_vectors_equals_scipy():
    student, pooled = static(), rows()
    teacher = pooled @ rotation(6) + np.random.default_rng(2).normal(size=pooled.shape)
    fit_projection(student, pooled, teacher, method="procrustes")
    h, t = pooled - pooled.mean(0), teacher - teacher.mean(0)
    turned, sum_of_values = orthogonal_procrustes(h, t)
    expected = turned * sum_of_values / (h**2).sum()
    np.testing.assert_allclose(student.projection.get_weights()[0], expected, atol=1e-5)


def test_ridge_equals_least_squares_with_a_penalty():
    # The penalty as additional rows with the target 0.
    student, pooled, teacher = static(output_dim=4), rows(), rows(width=4, seed=5)
    fit_projection(student, pooled, teacher, method="ridge", ridge=0.1)
    h, t = pooled - pooled.mean(0), teacher - teacher.mean(0)
    penalty = np.sqrt(0.1 * h.var(axis=0).mean() * len(h)) * np.eye(6)
    expected = np.linalg.lstsq(
        np.concatenate([h, penalty]), np.concatenate([t, np.zeros((6, 4))]), rcond=None
    )[0]
    np.testing.assert_allclose(student.projection.get_weights()[0], expected, atol=1e-5)
    np.testing.assert_allclose(outputs(student, pooled).mean(0), teacher.mean(0), atol=1e-5)


@pytest.mark.parametrize("output_dim", [6, 4])
@pytest.mark.parametrize("with_teacher", [False, True])
def test_whitened_covariance_is_the_identity(output_dim, with_teacher):
    student, pooled = static(output_dim), rows()
    teacher = rows(width=output_dim, seed=3) if with_teacher else None
    fit = fit_projection(student, pooled, teacher, method="whitening")
    white = outputs(student, pooled)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(output_dim), atol=1e-4)
    np.testing.assert_allclose(white.mean(0), 0, atol=1e-4)
    assert (fit.cosine_after is None) is not with_teacher


def test_whitening_takes_the_directions_of_largest_variance():
    # The columns are uncorrelated: one direction each, without the last two.
    pooled = np.linalg.qr(rows() - rows().mean(0))[0] * [6, 5, 4, 3, 2, 1]
    student = static(output_dim=4)
    fit_projection(student, pooled, method="whitening")
    kernel = student.projection.get_weights()[0]
    np.testing.assert_allclose(kernel[4:], 0, atol=1e-5)
    lengths = np.linalg.norm(kernel[:4], axis=1)
    np.testing.assert_allclose(lengths, np.sqrt(200) / np.array([6, 5, 4, 3]), rtol=1e-4)


def test_whitening_with_a_teacher_is_rotated_towards_it():
    pooled = rows()
    white = (pooled - pooled.mean(0)) @ np.linalg.inv(np.linalg.cholesky(np.cov(pooled.T))).T
    teacher = white @ rotation(6)
    student = static()
    fit = fit_projection(student, pooled, teacher, method="whitening")
    assert fit.cosine_after == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_fitted_student_embeds_as_its_pooled_vectors_predict(reading_student, method, texts):
    student = reading_student.clone()
    teacher = np.random.default_rng(0).normal(size=(len(texts), 4))
    pooled = student.encode_pooled(texts)
    fit = fit_projection(student, texts, teacher, method=method)
    outside = oracles.unit(outputs(student, pooled))
    np.testing.assert_allclose(student.encode(texts), outside, atol=1e-4)
    assert fit.rows == len(texts)
    assert fit.cosine_after == pytest.approx(
        (outside * oracles.unit(teacher)).sum(1).mean(), abs=1e-4
    )


def test_rotate_projection_rotates_the_embeddings(reading_student, texts):
    before, turn = reading_student.encode(texts), rotation(reading_student.output_dim)
    student = reading_student.clone()
    rotate_projection(student, turn)
    np.testing.assert_allclose(student.encode(texts), before @ turn, atol=1e-5)


def test_a_rotation_of_another_width_is_refused():
    with pytest.raises(InputError) as error:
        rotate_projection(static(), np.eye(5))
    assert_one_line(
        str(error.value), "the student's width, (6, 6)", "shape (5, 5)", "Use principal_axes"
    )


def test_encode_pooled_returns_the_inputs_of_the_projection(reading_student, texts):
    pooled = reading_student.encode_pooled(texts, batch_size=7)
    assert pooled.shape == (len(texts), reading_student.pooled_dim)
    expected = oracles.unit(outputs(reading_student, pooled))
    np.testing.assert_allclose(reading_student.encode(texts), expected, atol=1e-5)


def test_fit_to_a_set_brings_a_student_near_its_teacher(sample_set, vocabulary, tmp_path):
    student = make_student(
        StaticStudent,
        vocabulary.size,
        vocabulary=vocabulary,
        output_dim=sample_set.embedding_dim,
        embedding_dim=64,
    )
    fit = fit_projection(student, sample_set, max_sentences=1500)
    assert fit.rows == 1500
    assert fit.cosine_before < 0.1 and fit.cosine_after > fit.cosine_before + 0.3
    # Kernel and bias are saved.
    student.save(tmp_path / "student.keras")
    copy, some = kdkeras.load(tmp_path / "student.keras"), list(sample_set.sentences())[:50]
    np.testing.assert_array_equal(copy.encode(some), student.encode(some))


def test_other_weights_are_unchanged():
    student = static()
    before = student.get_weights()
    fit_projection(student, rows(), rows(seed=2))
    for one, other in zip(before[:2], student.get_weights()[:2], strict=True):
        np.testing.assert_array_equal(one, other)


# ---- errors ----------------------------------------------------


def refused(*parts, student=None, data=None, teacher=None, **arguments):
    student = student or static()
    before = student.get_weights()
    with pytest.raises(InputError) as error:
        fit_projection(student, rows() if data is None else data, teacher, **arguments)
    assert_one_line(str(error.value), *parts)
    for one, other in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_student_without_projection_is_refused():
    student = make_student(TransformerStudent, output_dim=8, project=False)
    refused("must end in a projection", "TransformerStudent", "project=True", student=student)


def test_an_unknown_method_is_refused():
    refused("`method` must be one of", "'pca'", "ridge", method="pca")


@pytest.mark.parametrize("ridge", [0.0, -1.0, float("nan"), float("inf")])
def test_a_ridge_that_is_not_positive_is_refused(ridge):
    refused("`ridge` must be positive", f"ridge={ridge}", teacher=rows(), ridge=ridge)


@pytest.mark.parametrize("method", ["procrustes", "ridge"])
def test_methods_that_need_a_teacher_say_so(method):
    refused(f"'{method}' needs teacher embeddings", "teacher_embeddings", method=method)


def test_a_set_with_other_vectors_is_refused(sample_set):
    refused(
        "A distillation set contains teacher embeddings",
        "Omit them",
        data=sample_set,
        teacher=rows(),
    )


@pytest.mark.parametrize("data", [rows(width=5), rows(n=1), rows()[0]], ids=["width", "one", "1d"])
def test_pooled_vectors_of_another_shape_are_refused(data):
    refused("of width 6", str(data.shape), data=data, method="whitening")


@pytest.mark.parametrize("teacher", [rows(width=5), rows(n=199)], ids=["width", "rows"])
def test_teacher_vectors_of_another_shape_are_refused(teacher):
    refused(str(teacher.shape), "expected (200, 6)", "output_dim", teacher=teacher)


@pytest.mark.parametrize("name", ["pooled vectors", "teacher_embeddings"])
def test_numbers_that_are_not_finite_are_refused(name):
    broken = rows()
    broken[7, 2] = np.nan
    data, teacher = (broken, rows()) if name == "pooled vectors" else (rows(), broken)
    refused(f"The {name} must be finite", "1 rows", data=data, teacher=teacher)


def test_equal_vectors_are_refused():
    refused("must differ", "200 equal ones", data=np.ones((200, 6)), teacher=rows())


def test_whitening_of_too_few_directions_is_refused():
    flat = rows(width=3) @ np.random.default_rng(0).normal(size=(3, 6))
    refused("rank 6 or more", "rank 3 of 200 vectors", "'ridge'", data=flat, method="whitening")
    refused("rank 9 or more", "rank 6 of", student=static(output_dim=9), method="whitening")


# ---- fold_projection ------------------------------------


@pytest.mark.parametrize("make", [StaticStudent, TransformerStudent])
@pytest.mark.parametrize("normalize", [False, True])
def test_a_folded_student_gives_what_the_loss_compared(make, normalize, tmp_path):
    student = make_student(make, output_dim=5, normalize=normalize)
    kernel = np.random.default_rng(3).normal(size=(5, 8)).astype("float32")
    ids = np.array([[1, 2, 3], [4, 5, 0]])
    inputs = {"token_ids": ids, "padding_mask": (ids > 0).astype("int32")}
    before = np.asarray(student(inputs))
    folded = fold_projection(student, kernel)
    expected = before.astype(float) @ kernel
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(folded(inputs), expected, rtol=0, atol=1e-5)
    assert folded.output_dim == 8
    np.testing.assert_array_equal(student(inputs), before)
    folded.save(tmp_path / "folded.keras")
    loaded = kdkeras.load(tmp_path / "folded.keras")
    np.testing.assert_array_equal(loaded(inputs), folded(inputs))


def test_a_map_of_another_width_is_refused():
    with pytest.raises(InputError) as error:
        fold_projection(static(output_dim=6), np.ones((5, 8)))
    assert_one_line(str(error.value), "(6, d)", "(5, 8)", "`kernel`")
