"""A truncated student gives the first components of the student's embeddings."""

from __future__ import annotations

import numpy as np
import pytest
from contracts import assert_one_line

import kdkeras
from kdkeras.compression import truncate
from kdkeras.errors import InputError
from kdkeras.evaluation.metrics import retrieval_accuracy
from kdkeras.losses import principal_axes
from kdkeras.students import TransformerStudent


@pytest.mark.parametrize("name", ["fitted", "transformer"])
def test_truncation_equals_encode_with_dim(name, texts, tmp_path, request):
    student = request.getfixturevalue(name)
    cut = truncate(student, 9)
    assert cut.output_dim == 9 and cut.encode(texts).shape == (len(texts), 9)
    np.testing.assert_allclose(cut.encode(texts), student.encode(texts, dim=9), atol=1e-5)
    cut.save(tmp_path / "cut.keras")
    copy = kdkeras.load(tmp_path / "cut.keras")
    np.testing.assert_array_equal(copy.encode(texts), cut.encode(texts))


def test_the_rotation_is_applied_before_truncation(fitted, texts):
    axes = principal_axes(fitted.encode(texts))
    expected = (fitted.encode(texts) @ axes)[:, :32]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(truncate(fitted, 32, axes).encode(texts), expected, atol=1e-5)


def test_principal_axes_preserve_more_accuracy(fitted, held_out, sample_groups):
    foreign, english = held_out["de"]
    axes = principal_axes(fitted.encode([group.source for group in sample_groups[:2000]]))

    def accuracy(student):
        sides = student.encode(foreign), student.encode(english)
        return retrieval_accuracy(*sides, foreign, english).mean

    plain, turned = (accuracy(truncate(fitted, 48, r)) for r in (None, axes))
    assert plain + 0.02 < turned <= accuracy(fitted) + 0.02


def test_a_student_without_a_projection_gets_one(wordpiece, texts):
    student = TransformerStudent(
        *(wordpiece.size, 16, 1, 16, 2, 24),
        project=False, normalize=False, sequence_length=40, vocabulary=wordpiece,
    )  # fmt: skip
    cut = truncate(student, 5)
    np.testing.assert_allclose(cut.encode(texts), student.encode(texts)[:, :5], atol=1e-5)


@pytest.mark.parametrize("dim", [0, 385])
def test_an_impossible_width_is_refused(fitted, dim):
    with pytest.raises(InputError) as error:
        truncate(fitted, dim)
    assert_one_line(str(error.value), "between 1 and 384", f"dim={dim}")


@pytest.mark.parametrize("rotation", [np.eye(3), np.full((384, 384), np.nan), 2 * np.eye(384)])
def test_an_invalid_rotation_is_refused(fitted, rotation):
    with pytest.raises(InputError) as error:
        truncate(fitted, 8, rotation)
    assert_one_line(str(error.value), "orthonormal", str(rotation.shape), "principal_axes")
