"""The start at the least squares solution."""

from __future__ import annotations

import numpy as np
import pytest
from contracts import assert_one_line
from small_students import make_student

from kdkeras.data import train_vocabulary
from kdkeras.data.pipeline import copies_by_language
from kdkeras.errors import InputError
from kdkeras.evaluation import TranslationEvaluator
from kdkeras.students import StaticStudent, TransformerStudent, initialize_from_targets

WIDTH = 8


@pytest.fixture(scope="module")
def words(sample_groups):
    texts = [text for group in sample_groups[:800] for text in (group.source, *group.translations)]
    return train_vocabulary(texts, 3000, "sentencepiece")


def new_student(words, **arguments):
    return StaticStudent(
        words.size, 384, **{"embedding_dim": WIDTH, "vocabulary": words, **arguments}
    )


def dense_equations(words, dataset, temperature):
    """Rows of the least squares problem, sentence by sentence, in float64."""
    copies = copies_by_language(dataset.counts, temperature)
    texts, weights, targets = [], [], []
    for group, vector in dataset.records():
        drawn = [copies[language] for language in group.languages]
        for text, weight in zip(
            (group.source, *group.translations), (sum(drawn), *drawn), strict=True
        ):
            texts.append(text)
            weights.append(weight)
            targets.append(vector.astype(np.float64))
    rows = words.tokenize(texts, 128).to_list()
    counts = np.bincount(np.concatenate(rows).astype(int), minlength=words.size)
    token_weight = 1e-3 / (1e-3 + counts / counts.sum())
    matrix = np.zeros((len(rows), words.size))
    for i, row in enumerate(rows):
        for token in row:
            matrix[i, token] += token_weight[token] / len(row)
    return matrix, np.array(weights), np.array(targets), token_weight


@pytest.fixture(scope="module")
def solved(words, sample_set):
    """A start after many iterations, and the same by a dense solver."""
    student = new_student(words)
    start = initialize_from_targets(
        student, sample_set, language_temperature=0.3, iterations=150, ridge=0.02
    )
    matrix, weight, targets, token_weight = dense_equations(words, sample_set, 0.3)
    mean = weight @ targets / weight.sum()
    centred = targets - mean
    covariance = (centred.T * weight) @ centred / weight.sum()
    axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :WIDTH]
    normal = (matrix.T * weight) @ matrix
    # The preconditioner's diagonal, whose median sets the ridge, counts repeated tokens apart.
    rows = words.tokenize([t for g, _ in sample_set.records() for t in (g.source, *g.translations)])
    diagonal = np.zeros(words.size)
    for c, row in zip(weight, rows.to_list(), strict=True):
        np.add.at(diagonal, row, c / len(row) ** 2)
    diagonal *= token_weight**2
    ridge = 0.02 * np.median(diagonal[diagonal > 0])
    right = (matrix.T * weight) @ (centred @ axes)
    table = np.linalg.solve(normal + ridge * np.eye(words.size), right)
    residual = centred @ axes - matrix @ table
    spread = weight.sum() * np.trace(covariance)
    within = (weight[:, None] * ((centred @ axes) ** 2 - residual**2)).sum()
    return student, start, table @ axes.T, token_weight, within / spread


def test_equals_a_dense_solver(solved):
    student, _, expected, weights, _ = solved
    found = np.asarray(student.token_embedding.table) @ np.asarray(student.projection.kernel)
    seen = weights < 1
    assert np.abs(found - expected)[seen].max() < 2e-3 * np.abs(expected).max()
    assert not expected[~seen].any() and (np.linalg.norm(found[~seen], axis=1) > 0.01).all()


def test_token_weights_are_those_of_their_frequency(solved):
    student, _, _, expected, _ = solved
    np.testing.assert_allclose(
        np.exp(np.asarray(student.token_weight.table))[:, 0], expected, rtol=1e-4
    )


def test_explained_variance_is_that_of_the_solution(solved):
    _, start, _, _, expected = solved
    assert start.explained == pytest.approx(expected, abs=1e-4)
    assert 0.05 < start.explained < 1


def test_few_iterations_find_translations_that_no_random_table_finds(
    sample_set, vocabulary, held_out
):
    accuracy = []
    student = StaticStudent(vocabulary.size, 384, vocabulary=vocabulary)
    for _ in range(2):
        evaluator = TranslationEvaluator("de", *held_out["de"])
        accuracy.append(evaluator(student)["de_accuracy"])
        initialize_from_targets(student, sample_set)
    assert accuracy[0] < 0.2 and accuracy[1] > 0.6


def test_bias_is_the_mean_only_where_lengths_are_kept(words, sample_set):
    unit, free = (new_student(words, normalize=value) for value in (True, False))
    for student in (unit, free):
        initialize_from_targets(student, sample_set, iterations=1)
    assert not np.any(np.asarray(unit.projection.bias))
    vectors = np.array([vector for _, vector in sample_set.records()])
    assert np.linalg.norm(vectors.mean(0) - np.asarray(free.projection.bias)) < 0.05
    assert np.linalg.norm(np.asarray(free.projection.bias)) > 0.1


def test_most_limits_what_is_read_and_progress_ends_at_its_total(words, sample_set):
    calls = []
    start = initialize_from_targets(
        new_student(words),
        sample_set,
        iterations=2,
        most=1000,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert 1000 <= start.sentences < sample_set.num_pairs
    assert calls[-1] == (3000, 3000) and calls == sorted(calls)


def test_what_has_no_linear_table_is_refused(sample_set, vocabulary):
    student = make_student(
        TransformerStudent, vocabulary.size, vocabulary=vocabulary, output_dim=384
    )
    with pytest.raises(InputError) as error:
        initialize_from_targets(student, sample_set)
    assert_one_line(str(error.value), "static student", "TransformerStudent")


@pytest.mark.parametrize(
    ("student", "arguments", "parts"),
    [
        ({"output_dim": 5}, {}, ("384", "output_dim=5")),
        ({"output_dim": 384}, {"iterations": 0}, ("`iterations`", "iterations=0")),
        ({"output_dim": 384}, {"ridge": 0.0}, ("`ridge`", "ridge=0.0")),
    ],
    ids=["width", "iterations", "ridge"],
)
def test_what_does_not_fit_is_refused(words, sample_set, student, arguments, parts):
    made = StaticStudent(words.size, embedding_dim=WIDTH, vocabulary=words, **student)
    with pytest.raises(InputError) as error:
        initialize_from_targets(made, sample_set, **arguments)
    assert_one_line(str(error.value), *parts)


def test_without_token_weights_the_start_is_the_same_function(words, sample_set, held_out):
    students = [new_student(words), new_student(words, token_weights=False)]
    for student in students:
        initialize_from_targets(student, sample_set, iterations=2)
    one, other = (student.encode(held_out["de"][0]) for student in students)
    np.testing.assert_allclose(one, other, atol=1e-4)
