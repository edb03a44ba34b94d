"""Evaluators on real sentences with a small encoder."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from scipy import stats
from tatoeba_sentences import ENGLISH, GERMAN, PAIRS

from kdkeras import InputError
from kdkeras.data import write_distillation_set
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
    """An encoder with one NaN."""

    def __init__(self, encoder, row):
        self.encoder, self.row = encoder, row

    def encode(self, texts):
        vectors = self.encoder.encode(texts)
        vectors[self.row, 0] = np.nan
        return vectors


def test_similarity_is_the_rank_correlation_of_the_cosines(tiny_teacher):
    results = EmbeddingSimilarityEvaluator("tatoeba_de_en", GERMAN, ENGLISH, SCORES)(tiny_teacher)
    cosines = np.sum(tiny_teacher.encode(GERMAN) * tiny_teacher.encode(ENGLISH), axis=1)
    assert list(results) == ["tatoeba_de_en_spearman"]
    assert results["tatoeba_de_en_spearman"] == pytest.approx(
        stats.spearmanr(cosines, SCORES).statistic, abs=1e-6
    )


def test_translation_metrics_are_both_directions_and_their_mean(tiny_teacher):
    results = TranslationEvaluator("tatoeba_deu", GERMAN, ENGLISH)(tiny_teacher)
    forward = results["tatoeba_deu_to_english_accuracy"]
    backward = results["tatoeba_deu_from_english_accuracy"]
    assert list(results)[0] == "tatoeba_deu_accuracy"
    assert results["tatoeba_deu_accuracy"] == pytest.approx((forward + backward) / 2)
    cosines = tiny_teacher.encode(GERMAN) @ tiny_teacher.encode(ENGLISH).T
    # The last two English sentences are equal.
    right = [ENGLISH[best] == ENGLISH[i] for i, best in enumerate(cosines.argmax(axis=1))]
    assert forward == pytest.approx(np.mean(right))


def test_equal_sentences_count_as_one(tiny_teacher):
    results = TranslationEvaluator("tatoeba_eng", ENGLISH, ENGLISH)(tiny_teacher)
    assert ENGLISH[-1] == ENGLISH[-2]
    assert set(results.values()) == {1.0}


def test_teacher_match_of_the_teacher_is_one(tiny_teacher):
    evaluator = TeacherMatchEvaluator("tatoeba_en", ENGLISH, tiny_teacher.encode(ENGLISH))
    assert evaluator(tiny_teacher) == {"tatoeba_en_teacher_match": pytest.approx(1, abs=1e-6)}
    shifted = TeacherMatchEvaluator("tatoeba_en", GERMAN, tiny_teacher.encode(ENGLISH))
    assert shifted(tiny_teacher)["tatoeba_en_teacher_match"] < 0.95


def test_evaluate_all_merges_the_metrics_and_reports_progress(tiny_teacher):
    calls = []
    results = evaluate_all(
        [
            EmbeddingSimilarityEvaluator("sts_de_en", GERMAN, ENGLISH, SCORES),
            TranslationEvaluator("tatoeba_deu", GERMAN, ENGLISH),
        ],
        tiny_teacher,
        progress=lambda *call: calls.append(call),
    )
    assert list(results)[:2] == ["sts_de_en_spearman", "tatoeba_deu_accuracy"]
    assert all(type(value) is float for value in results.values())
    assert calls == [
        ("Evaluating", 0, 2),
        ("Evaluating, sts_de_en", 1, 2),
        ("Evaluating, tatoeba_deu", 2, 2),
    ]


def test_evaluate_all_rejects_metrics_of_the_same_name(tiny_teacher):
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
    ids=["similarity", "translation", "teacher match"],
)
def test_embeddings_that_are_not_finite_are_rejected_by_name(tiny_teacher, make):
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
def test_constructor_rejects_invalid_arguments(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_teacher_match_of_another_width_names_the_evaluator(tiny_teacher):
    evaluator = TeacherMatchEvaluator("held_out_en", ENGLISH, np.ones((12, 8)))
    with pytest.raises(InputError, match=r"Evaluator held_out_en: .*\(12, 32\) and \(12, 8\)"):
        evaluator(tiny_teacher)


# ---- reading files -------------------------------------------------------


def write(path, rows):
    text = "".join("\t".join(map(str, row)) + "\n" for row in rows).encode("utf-8")
    path.write_bytes(gzip.compress(text) if path.suffix == ".gz" else text)
    return path


@pytest.mark.parametrize("name", ["de-en.test.tsv", "de-en.test.tsv.gz"])
def test_similarity_evaluator_reads_scored_pairs(tmp_path, name):
    rows = [(*pair, score / 2, "more") for score, pair in enumerate(PAIRS)]
    evaluator = EmbeddingSimilarityEvaluator.from_tsv(write(tmp_path / name, rows))
    assert evaluator.name == "de_en_test"
    assert (evaluator.sentences1, evaluator.sentences2) == (GERMAN, ENGLISH)
    assert evaluator.scores.tolist() == [score / 2 for score in range(12)]


def test_translation_evaluators_read_pairs(tmp_path, tiny_teacher):
    path = write(tmp_path / "deu-eng.tsv.gz", PAIRS)
    evaluator = TranslationEvaluator.from_tsv(path)
    assert (evaluator.name, evaluator.foreign, evaluator.english) == ("deu_eng", GERMAN, ENGLISH)
    assert TranslationEvaluator.from_tsv(path, name="tatoeba_deu").name == "tatoeba_deu"
    evaluator = AsymmetricRetrievalEvaluator.from_tsv(path, tiny_teacher, "own")
    assert (evaluator.name, evaluator.queries, evaluator.documents) == ("own", GERMAN, ENGLISH)
    np.testing.assert_array_equal(evaluator.index, tiny_teacher.encode(ENGLISH))


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(*PAIRS[0], 3), PAIRS[1]], "sentence<TAB>sentence<TAB>score.*line 2"),
        ([(*PAIRS[0], 3), (*PAIRS[1], "high")], "line 2: 'high'"),
        ([(*PAIRS[0], "nan")], "finite number.*line 1: 'nan'"),
        ([(PAIRS[0][0], "", 3)], "line 1"),
        ([], "at least one row"),
    ],
    ids=["no score", "a word", "nan", "empty sentence", "empty file"],
)
def test_invalid_row_of_a_similarity_file_is_named(tmp_path, rows, message):
    path = write(tmp_path / "bad.tsv", rows)
    with pytest.raises(InputError, match=message) as caught:
        EmbeddingSimilarityEvaluator.from_tsv(path)
    assert str(path) in str(caught.value)


# ---- asymmetric retrieval ------------------------------------------------


def found(queries, documents):
    """Fraction of queries whose nearest neighbor by cosine is their own row."""
    unit = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (queries, documents)]
    return np.mean((unit[0] @ unit[1].T).argmax(axis=1) == np.arange(len(queries)))


def german_pairs(groups):
    """Pairs of a German and an English sentence; each sentence occurs once."""
    pairs = {
        group.source: text
        for group in groups
        for language, text in zip(group.languages, group.translations, strict=True)
        if language == "de"
    }
    english = {text: source for source, text in pairs.items()}
    return list(english), list(english.values())


def test_queries_of_a_student_find_documents_of_its_teacher(
    vocabulary, sample_groups, sample_teacher, tmp_path
):
    groups = sample_groups[:400]
    dataset = write_distillation_set(groups, sample_teacher, tmp_path / "set")
    student = StaticStudent(vocabulary.size, 384, 48, vocabulary=vocabulary)
    initialize_from_targets(student, dataset, iterations=2)
    german, english = german_pairs(groups)
    index = sample_teacher.encode(english)
    metrics = AsymmetricRetrievalEvaluator("sample_de", german, english, index)(student)
    queries = student.encode(german)
    assert list(metrics) == ["sample_de_asymmetric_accuracy", "sample_de_student_accuracy"]
    assert metrics["sample_de_asymmetric_accuracy"] == pytest.approx(found(queries, index))
    assert metrics["sample_de_asymmetric_accuracy"] > 0.5
    shuffled = AsymmetricRetrievalEvaluator("sample_de", german, english, index[::-1].copy())
    assert shuffled(student)["sample_de_asymmetric_accuracy"] < 0.05


def test_asymmetric_metrics_are_those_of_the_three_pairings(tiny_teacher):
    english, german = ENGLISH[:-1], GERMAN[:-1]  # The last sentence is a duplicate.
    vectors = {side[0]: tiny_teacher.encode(side) for side in (english, german)}

    class Student:
        def encode(self, texts):
            return vectors[texts[0]] + np.eye(len(texts), 32)

    student = Student()
    metrics = AsymmetricRetrievalEvaluator("de", german, english, tiny_teacher)(student)
    pairings = {
        "asymmetric": (student.encode(german), vectors[english[0]]),
        "student": (student.encode(german), student.encode(english)),
        "teacher": (vectors[german[0]], vectors[english[0]]),
    }
    expected = {f"de_{name}_accuracy": found(*sides) for name, sides in pairings.items()}
    assert metrics == pytest.approx(expected) and len(set(metrics.values())) > 1
    given = AsymmetricRetrievalEvaluator(
        "de", german, english, vectors[english[0]], vectors[german[0]]
    )
    assert given(student) == metrics


def test_constant_index_scores_like_random_guessing(tiny_teacher):
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
def test_invalid_index_is_rejected(tiny_teacher, index, message):
    with pytest.raises(InputError, match=message):
        AsymmetricRetrievalEvaluator("de", GERMAN, ENGLISH, index)(tiny_teacher)
