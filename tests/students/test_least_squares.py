"""Initialization of a static student from cached targets by least squares."""

from __future__ import annotations

import numpy as np
import pytest
from contracts import assert_one_line
from small_students import make_student

from kdkeras.data import CachedTeacher, DistillationSet, train_vocabulary, write_distillation_set
from kdkeras.data.pipeline import copies_by_language
from kdkeras.errors import InputError
from kdkeras.evaluation import TranslationEvaluator
from kdkeras.students import StaticStudent, TransformerStudent, initialize_from_targets

WIDTH = 8


@pytest.fixture(scope="module")
def small_set(sample_set, tmp_path_factory):
    """A part of the sample, with real targets of several languages."""
    folder = tmp_path_factory.mktemp("least_squares") / "set"
    groups = [group for group, _ in sample_set.records()][:400]
    write_distillation_set(groups, CachedTeacher(sample_set), folder)
    return DistillationSet(folder)


@pytest.fixture(scope="module")
def words(small_set):
    return train_vocabulary(list(small_set.sentences()), 1800, "sentencepiece")


def new_student(words, **arguments):
    return StaticStudent(
        words.size, 384, **{"embedding_dim": WIDTH, "vocabulary": words, **arguments}
    )


def dense_equations(words, dataset, temperature):
    """The least squares problem, one row per sentence, in float64."""
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
def solved(words, small_set):
    """A student after many iterations, and the solution of a dense solver."""
    student = new_student(words)
    start = initialize_from_targets(
        student, small_set, language_temperature=0.3, iterations=150, ridge=0.02
    )
    matrix, weight, targets, token_weight = dense_equations(words, small_set, 0.3)
    mean = weight @ targets / weight.sum()
    centered = targets - mean
    covariance = (centered.T * weight) @ centered / weight.sum()
    axes = np.linalg.eigh(covariance)[1][:, ::-1][:, :WIDTH]
    normal = (matrix.T * weight) @ matrix
    # The diagonal whose median scales the ridge adds up repeated tokens one by one.
    rows = words.tokenize([t for g, _ in small_set.records() for t in (g.source, *g.translations)])
    diagonal = np.zeros(words.size)
    for c, row in zip(weight, rows.to_list(), strict=True):
        np.add.at(diagonal, row, c / len(row) ** 2)
    diagonal *= token_weight**2
    ridge = 0.02 * np.median(diagonal[diagonal > 0])
    right = (matrix.T * weight) @ (centered @ axes)
    table = np.linalg.solve(normal + ridge * np.eye(words.size), right)
    residual = centered @ axes - matrix @ table
    spread = weight.sum() * np.trace(covariance)
    within = (weight[:, None] * ((centered @ axes) ** 2 - residual**2)).sum()
    return student, start, table @ axes.T, token_weight, within / spread


def test_table_and_projection_equal_the_dense_solution(solved):
    student, _, expected, weights, _ = solved
    found = np.asarray(student.token_embedding.table) @ np.asarray(student.projection.kernel)
    seen = weights < 1
    assert np.abs(found - expected)[seen].max() < 2e-3 * np.abs(expected).max()
    assert (~seen).any() and not expected[~seen].any()
    assert (np.linalg.norm(found[~seen], axis=1) > 0.01).all()


def test_token_weights_follow_the_frequency_of_the_tokens(solved):
    student, _, _, expected, _ = solved
    np.testing.assert_allclose(
        np.exp(np.asarray(student.token_weight.table))[:, 0], expected, rtol=1e-4
    )


def test_explained_variance_equals_that_of_the_dense_solution(solved):
    _, start, _, _, expected = solved
    assert start.explained == pytest.approx(expected, abs=1e-4)
    assert 0.05 < start.explained < 1


def test_default_iterations_find_translations_that_a_random_table_does_not(
    sample_set, vocabulary, held_out
):
    student = StaticStudent(vocabulary.size, 384, 64, vocabulary=vocabulary)
    evaluator = TranslationEvaluator("de", *held_out["de"])
    assert evaluator(student)["de_accuracy"] < 0.2
    initialize_from_targets(student, sample_set)
    assert evaluator(student)["de_accuracy"] > 0.6


@pytest.fixture(scope="module")
def variants(words, small_set):
    """Initialized students: the default one, without normalization, without token weights."""
    arguments = [{}, {"normalize": False}, {"token_weights": False}]
    students = [new_student(words, **changes) for changes in arguments]
    for student in students:
        initialize_from_targets(student, small_set, iterations=2)
    return students


def test_bias_is_the_mean_target_unless_the_student_normalizes(variants, small_set):
    unit, free, _ = variants
    assert not np.any(np.asarray(unit.projection.bias))
    vectors = np.array([vector for _, vector in small_set.records()])
    assert np.linalg.norm(vectors.mean(0) - np.asarray(free.projection.bias)) < 0.05
    assert np.linalg.norm(np.asarray(free.projection.bias)) > 0.1


def test_max_sentences_limits_reading_and_progress_ends_at_its_total(words, small_set, monkeypatch):
    monkeypatch.setattr("kdkeras.students.least_squares._RECORDS_AT_ONCE", 100)
    calls = []
    start = initialize_from_targets(
        new_student(words),
        small_set,
        iterations=2,
        max_sentences=500,
        progress=lambda task, done, total: calls.append((task, done, total)),
    )
    assert 500 <= start.sentences < small_set.num_pairs
    assert calls[0] == ("Fitting the table", 0, 1500) and calls == sorted(calls)
    assert calls[-1] == ("Fitting the table", 1500, 1500)


def test_a_transformer_is_refused(small_set, vocabulary):
    student = make_student(
        TransformerStudent, vocabulary.size, vocabulary=vocabulary, output_dim=384
    )
    with pytest.raises(InputError) as error:
        initialize_from_targets(student, small_set)
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
def test_arguments_that_do_not_fit_are_refused(words, small_set, student, arguments, parts):
    made = StaticStudent(words.size, embedding_dim=WIDTH, vocabulary=words, **student)
    with pytest.raises(InputError) as error:
        initialize_from_targets(made, small_set, **arguments)
    assert_one_line(str(error.value), *parts)


def test_without_token_weights_the_embeddings_are_the_same(variants, held_out):
    one, _, other = (student.encode(held_out["de"][0][:20]) for student in variants)
    np.testing.assert_allclose(one, other, atol=1e-4)
