"""Evaluators on real sentences, with a real encoder."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from tatoeba_sentences import ENGLISH, GERMAN

from kdkeras import InputError
from kdkeras.data import CachedTeacher
from kdkeras.evaluation import (
    AsymmetricRetrievalEvaluator,
    EmbeddingSimilarityEvaluator,
    TeacherMatchEvaluator,
    TranslationEvaluator,
    evaluate_all,
)
from kdkeras.students import StaticStudent, initialize_from_targets

SCORES = np.arange(len(ENGLISH)) % 5


class Broken:
    """An encoder after a diverged training."""

    def __init__(self, encoder, row):
        self.encoder, self.row = encoder, row

    def encode(self, texts):
        vectors = self.encoder.encode(texts)
        vectors[self.row, 0] = np.nan
        return vectors


def test_similarity_is_scipys_correlation_of_the_cosines(tiny_teacher):
    results = EmbeddingSimilarityEvaluator("tatoeba_de_en", GERMAN, ENGLISH, SCORES)(tiny_teacher)
    cosines = np.sum(tiny_teacher.encode(GERMAN) * tiny_teacher.encode(ENGLISH), axis=1)
    assert list(results) == ["tatoeba_de_en_spearman"]
    assert results["tatoeba_de_en_spearman"] == pytest.approx(
        stats.spearmanr(cosines, SCORES).statistic, abs=1e-6
    )


def test_retrieval_names_both_directions(tiny_teacher):
    results = TranslationEvaluator("tatoeba_deu", GERMAN, ENGLISH)(tiny_teacher)
    forward = results["tatoeba_deu_to_english_accuracy"]
    backward = results["tatoeba_deu_from_english_accuracy"]
    assert list(results)[0] == "tatoeba_deu_accuracy"
    assert results["tatoeba_deu_accuracy"] == pytest.approx((forward + backward) / 2)
    cosines = tiny_teacher.encode(GERMAN) @ tiny_teacher.encode(ENGLISH).T
    # The last two English sentences are one sentence.
    right = [ENGLISH[best] == ENGLISH[i] for i, best in enumerate(cosines.argmax(axis=1))]
    assert forward == pytest.approx(np.mean(right))


def test_retrieval_counts_duplicate_sentences_as_found(tiny_teacher):
    results = TranslationEvaluator("tatoeba_eng", ENGLISH, ENGLISH)(tiny_teacher)
    assert ENGLISH[-1] == ENGLISH[-2]
    assert set(results.values()) == {1.0}


def test_teacher_match_of_the_teacher_is_one(tiny_teacher):
    evaluator = TeacherMatchEvaluator("tatoeba_en", ENGLISH, tiny_teacher.encode(ENGLISH))
    assert evaluator(tiny_teacher) == {"tatoeba_en_teacher_match": pytest.approx(1, abs=1e-6)}
    shifted = TeacherMatchEvaluator("tatoeba_en", GERMAN, tiny_teacher.encode(ENGLISH))
    assert shifted(tiny_teacher)["tatoeba_en_teacher_match"] < 0.95


def test_evaluate_all_joins_the_figures(tiny_teacher):
    results = evaluate_all(
        [
            EmbeddingSimilarityEvaluator("sts_de_en", GERMAN, ENGLISH, SCORES),
            TranslationEvaluator("tatoeba_deu", GERMAN, ENGLISH),
        ],
        tiny_teacher,
    )
    assert list(results)[:2] == ["sts_de_en_spearman", "tatoeba_deu_accuracy"]
    assert all(type(value) is float for value in results.values())


def test_evaluate_all_refuses_to_overwrite_a_figure(tiny_teacher):
    evaluator = TranslationEvaluator("tatoeba_deu", GERMAN, ENGLISH)
    with pytest.raises(InputError, match="tatoeba_deu_accuracy twice"):
        evaluate_all([evaluator, evaluator], tiny_teacher)


@pytest.mark.parametrize(
    "make",
    [
        lambda vectors: EmbeddingSimilarityEvaluator("sts_de_en", GERMAN, ENGLISH, SCORES),
        lambda vectors: TranslationEvaluator("sts_de_en", GERMAN, ENGLISH),
        lambda vectors: TeacherMatchEvaluator("sts_de_en", ENGLISH, vectors),
    ],
    ids=["similarity", "retrieval", "teacher match"],
)
def test_embeddings_that_are_not_finite_are_refused_by_name(tiny_teacher, make):
    evaluator = make(tiny_teacher.encode(ENGLISH))
    with pytest.raises(InputError, match=r"Evaluator sts_de_en: .* 1 of 12 .* sentence 7"):
        evaluator(Broken(tiny_teacher, row=7))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TranslationEvaluator("a_de", GERMAN[:3], ENGLISH), "a_de: .* lengths 3, 12"),
        (lambda: TranslationEvaluator("a_de", [], []), "a_de: .* not be empty"),
        (lambda: EmbeddingSimilarityEvaluator("a_de", GERMAN, ENGLISH, [1.0]), "lengths 12, 12, 1"),
        (
            lambda: EmbeddingSimilarityEvaluator("a_de", GERMAN, ENGLISH, [1.0] * 12),
            "12 equal values",
        ),
        (lambda: TeacherMatchEvaluator("a_de", GERMAN, np.ones((3, 4))), "lengths 12, 3"),
        (lambda: TranslationEvaluator("a de/en", GERMAN, ENGLISH), "name='a de/en'"),
        (
            lambda: TeacherMatchEvaluator("a_de", GERMAN, np.full((12, 4), np.inf)),
            r"a_de \(teacher\)",
        ),
    ],
    ids=["lengths", "empty", "scores", "constant", "targets", "name", "infinite targets"],
)
def test_evaluators_refuse_when_they_are_made(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_teacher_match_of_another_width_names_the_evaluator(tiny_teacher):
    evaluator = TeacherMatchEvaluator("held_out_en", ENGLISH, np.ones((12, 8)))
    with pytest.raises(InputError, match=r"Evaluator held_out_en: .*\(12, 32\) and \(12, 8\)"):
        evaluator(tiny_teacher)


# ---- asymmetric retrieval ------------------------------------------------


def found(queries, documents):
    """Share of queries nearest to their own row, by the plain cosine."""
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, documents)]
    return np.mean((unit[0] @ unit[1].T).argmax(axis=1) == np.arange(len(queries)))


@pytest.fixture(scope="module")
def german_pairs(sample_groups):
    """Real pairs whose English side has the teacher's vectors in the sample."""
    pairs = {}
    for group in sample_groups[:600]:
        for language, text in zip(group.languages, group.translations, strict=True):
            if language == "de":
                pairs[group.source] = text
    # Each German sentence once as well.
    english = {text: source for source, text in pairs.items()}
    return list(english), list(english.values())


def test_a_students_queries_search_the_teachers_index(vocabulary, sample_set, german_pairs):
    student = StaticStudent(vocabulary.size, 384, 48, vocabulary=vocabulary)
    initialize_from_targets(student, sample_set, iterations=2)
    german, english = german_pairs
    index = CachedTeacher(sample_set).encode(english)
    figures = AsymmetricRetrievalEvaluator("sample_de", german, english, index)(student)
    queries = student.encode(german)
    assert list(figures) == ["sample_de_asymmetric_accuracy", "sample_de_student_accuracy"]
    assert figures["sample_de_asymmetric_accuracy"] == pytest.approx(found(queries, index))
    assert figures["sample_de_asymmetric_accuracy"] > 0.5
    shuffled = AsymmetricRetrievalEvaluator("sample_de", german, english, index[::-1].copy())
    assert shuffled(student)["sample_de_asymmetric_accuracy"] < 0.05


def test_asymmetric_figures_are_those_of_the_three_pairings(tiny_teacher):
    english, german = ENGLISH[:-1], GERMAN[:-1]  # The last sentence is there twice.
    vectors = {side[0]: tiny_teacher.encode(side) for side in (english, german)}

    class Student:
        def encode(self, texts):
            return vectors[texts[0]] + np.eye(len(texts), 32)

    student = Student()
    figures = AsymmetricRetrievalEvaluator("de", german, english, tiny_teacher)(student)
    pairings = {
        "asymmetric": (student.encode(german), vectors[english[0]]),
        "student": (student.encode(german), student.encode(english)),
        "teacher": (vectors[german[0]], vectors[english[0]]),
    }
    expected = {f"de_{name}_accuracy": found(*sides) for name, sides in pairings.items()}
    assert figures == pytest.approx(expected) and len(set(figures.values())) > 1
    given = AsymmetricRetrievalEvaluator(
        "de", german, english, vectors[english[0]], vectors[german[0]]
    )
    assert given(student) == figures


def test_an_index_of_one_point_is_worth_a_guess(tiny_teacher):
    evaluator = AsymmetricRetrievalEvaluator("de", GERMAN, ENGLISH, np.ones((12, 32), np.float32))
    assert evaluator(tiny_teacher)["de_asymmetric_accuracy"] == pytest.approx(1 / 11)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (np.ones((3, 32)), r"de \(teacher\): .* lengths 3, 12"),
        (np.full((12, 32), np.nan), r"de \(teacher\): .* finite"),
        (np.ones((12, 8)), "de: .* Received: 32 and 8"),
    ],
    ids=["length", "NaN", "width"],
)
def test_an_index_that_does_not_fit_is_refused(tiny_teacher, index, message):
    with pytest.raises(InputError, match=message):
        AsymmetricRetrievalEvaluator("de", GERMAN, ENGLISH, index)(tiny_teacher)
