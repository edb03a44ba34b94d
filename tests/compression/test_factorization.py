"""A factorized table is the best approximation of its rank."""

from __future__ import annotations

import numpy as np
import pytest
from contracts import assert_one_line

import kdkeras
from kdkeras.compression import factorize_table
from kdkeras.compression.factorization import largest_rank
from kdkeras.errors import InputError
from kdkeras.layers.factorized_embedding import low_rank_factors


def outputs(student):
    """Projected vector of each token of a static student, `(V, output_dim)`, float64."""
    table, *weight, kernel, _ = (w.astype(np.float64) for w in student.get_weights())
    return (table * np.exp(weight[0]) if weight else table) @ kernel


def tail(matrix, rank):
    """The error of the best approximation: the squared singular values beyond the rank."""
    return squares(matrix)[rank:].sum()


def squares(matrix):
    """Squared singular values, the largest first."""
    return np.linalg.eigvalsh(matrix.T @ matrix)[::-1]


def test_factors_are_the_truncated_singular_value_decomposition():
    generator = np.random.default_rng(0)
    matrix, weights = generator.normal(size=(50, 7)), generator.uniform(0, 3, 50)
    root = np.sqrt(weights)[:, None]
    left, right = low_rank_factors(matrix, 4)
    assert ((matrix - left @ right) ** 2).sum() == pytest.approx(tail(matrix, 4), rel=1e-5)
    left, right = low_rank_factors(matrix, 4, weights)
    error = ((root * (matrix - left @ right)) ** 2).sum()
    assert error == pytest.approx(tail(root * matrix, 4), rel=1e-5)
    np.testing.assert_allclose(right @ right.T, np.eye(4), atol=1e-6)


def test_columns_have_similar_energy(fitted):
    left, _ = low_rank_factors(outputs(fitted), 32)
    energy = (left.astype(np.float64) ** 2).sum(axis=0)
    straight = squares(outputs(fitted))[:32]
    assert energy.max() / energy.min() < 0.5 * straight.max() / straight.min()


def test_full_rank_preserves_embeddings_without_token_weights(fitted, texts):
    same = factorize_table(fitted, 64)
    assert same.token_weight is None
    assert fitted.count_params() - same.count_params() == fitted.vocabulary_size
    np.testing.assert_allclose(same.encode([*texts, ""]), fitted.encode([*texts, ""]), atol=2e-6)


def test_the_table_of_a_static_student_is_the_best_approximation(fitted, counts):
    narrow = factorize_table(fitted, 24, counts)
    assert narrow.embedding_dim == 24 and narrow.projection.kernel.shape == (24, 384)
    root = np.sqrt(counts)[:, None]
    error = ((root * (outputs(fitted) - outputs(narrow))) ** 2).sum()
    assert error == pytest.approx(tail(root * outputs(fitted), 24), rel=1e-3)
    unweighted = factorize_table(fitted, 24)
    assert error < ((root * (outputs(fitted) - outputs(unweighted))) ** 2).sum()


def test_the_table_of_a_transformer_is_the_best_approximation(transformer, texts):
    table = np.asarray(transformer.token_embedding.table, np.float64)
    narrow = factorize_table(transformer, 6)
    rows, widen = narrow.token_embedding.get_weights()
    assert rows.shape == (transformer.vocabulary_size, 6) and widen.shape == (6, 16)
    assert ((table - rows @ widen) ** 2).sum() == pytest.approx(tail(table, 6), rel=1e-4)
    for ours, theirs in zip(transformer.layers[1:], narrow.layers[1:], strict=True):
        for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    # The product gives the same embeddings as a plain table, and can be factorized again.
    again = factorize_table(factorize_table(narrow, 5), 4)
    lossless = transformer.clone()
    lossless.set_weights([rows @ widen, *transformer.get_weights()[1:]])
    np.testing.assert_allclose(narrow.encode(texts), lossless.encode(texts), atol=1e-5)
    assert again.table_rank == 4


@pytest.mark.parametrize("name", ["fitted", "transformer"])
def test_a_factorized_student_is_saved(name, texts, tmp_path, request):
    narrow = factorize_table(request.getfixturevalue(name), 8)
    narrow.save(tmp_path / "narrow.keras")
    copy = kdkeras.load(tmp_path / "narrow.keras")
    np.testing.assert_array_equal(copy.encode(texts), narrow.encode(texts))


@pytest.mark.parametrize(("name", "most"), [("fitted", 64), ("transformer", 15)])
def test_a_rank_out_of_range_is_refused(name, most, request):
    student = request.getfixturevalue(name)
    assert largest_rank(student) == most
    for rank in (0, most + 1):
        with pytest.raises(InputError) as error:
            factorize_table(student, rank)
        assert_one_line(str(error.value), f"from 1 to {most}", f"rank={rank}")


def test_counts_that_do_not_fit_are_refused(fitted, counts):
    for wrong, said in ((counts[:5], "shape (5,)"), (counts - 1, "minimum -1"), (counts * 0, "")):
        with pytest.raises(InputError) as error:
            factorize_table(fitted, 8, wrong)
        assert_one_line(str(error.value), "`token_counts` must be 14000 numbers", said)


def test_another_model_is_refused(tmp_path):
    import keras

    with pytest.raises(InputError) as error:
        factorize_table(keras.Sequential(), 8)
    assert_one_line(str(error.value), "Sequential", "kdkeras.students")
