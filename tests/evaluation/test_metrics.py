"""Metrics against float64 oracles written from their definitions."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from kdkeras import InputError
from kdkeras.evaluation.metrics import retrieval_accuracy, spearman, teacher_match

REFERENCE = Path(__file__).parents[1] / "teachers" / "reference_vectors.json"


@pytest.fixture(scope="module")
def vectors():
    """What all-MiniLM-L6-v2 gives for real sentences, `(15, 384)`."""
    return np.array(json.loads(REFERENCE.read_text("utf-8"))["vectors"])


def oracle_accuracy(queries, candidates, texts):
    """Row by row in float64; equal texts are one answer, ties share the credit."""
    queries, candidates = np.asarray(queries, np.float64), np.asarray(candidates, np.float64)
    credit = 0.0
    for i, query in enumerate(queries):
        cosines = [query @ c / (np.linalg.norm(query) * np.linalg.norm(c)) for c in candidates]
        best = {texts[j] for j, cosine in enumerate(cosines) if cosine >= max(cosines) - 1e-6}
        credit += (texts[i] in best) / len(best)
    return credit / len(queries)


def test_spearman_is_scipys_on_real_cosines(vectors):
    cosines = (vectors @ vectors.T)[np.triu_indices(len(vectors), 1)]
    scores = np.random.default_rng(0).integers(0, 6, len(cosines))  # many ties
    assert spearman(cosines, scores) == pytest.approx(
        stats.spearmanr(cosines, scores).statistic, abs=1e-12
    )


def test_spearman_gives_ties_their_average_rank():
    # Ranks of x: 1, 2.5, 2.5, 4; of y: 1, 2, 3, 4. Centred: -1.5, 0, 0, 1.5 and
    # -1.5, -.5, .5, 1.5: 4.5 / sqrt(4.5 * 5) = 0.9487.
    assert spearman(np.array([0, 5, 5, 9]), np.array([1, 2, 3, 4])) == pytest.approx(0.9486833)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=20))
def test_spearman_is_scipys_or_refused(rows):
    x, y = np.array(rows, np.float64).T
    if len(set(x)) == 1 or len(set(y)) == 1:
        with pytest.raises(InputError, match="values that differ"):
            spearman(x, y)
    else:
        assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)


def test_spearman_does_not_depend_on_the_scale():
    x, y = np.array([0.1, 0.4, 0.2, 0.9]), np.array([1.0, 3.0, 4.0, 5.0])
    assert spearman(np.exp(9 * x), 100 * y - 7) == spearman(x, y)


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0, 2.0], [1.0], "equal length"),
        ([1.0], [1.0], "at least 2"),
        ([1.0, np.nan], [1.0, 2.0], "Received: 1 NaN or infinite"),
    ],
    ids=["lengths", "one value", "not finite"],
)
def test_spearman_refuses(x, y, message):
    with pytest.raises(InputError, match=message):
        spearman(np.array(x), np.array(y))


def test_retrieval_counts_each_direction_alone():
    # The first two candidates both point to query 0, so query 1 finds nothing of
    # its own: forward, query 0 finds 0 and query 1 finds 2; backward, 1 finds 0.
    queries = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.6, 0.8]])
    candidates = np.array([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, 0.7, 0.7]])
    accuracy = retrieval_accuracy(queries, candidates)
    assert (accuracy.forward, accuracy.backward) == pytest.approx((2 / 3, 2 / 3))
    swapped = retrieval_accuracy(queries[:2], candidates[[0, 2]])
    assert (swapped.forward, swapped.backward, swapped.mean) == (1.0, 1.0, 1.0)


def test_retrieval_directions_differ_where_they_should():
    # Both queries find candidate 0; candidate 0 finds query 0, candidate 1 query 1.
    accuracy = retrieval_accuracy(
        np.array([[1.0, 0.0], [0.9, 0.1]]), np.array([[1.0, 0.0], [0.1, 0.9]])
    )
    assert (accuracy.forward, accuracy.backward, accuracy.mean) == (0.5, 1.0, 0.75)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 1000])
def test_retrieval_is_the_oracles_in_any_chunks(vectors, chunk_size):
    random = np.random.default_rng(1)
    noisy = vectors + random.normal(0, 0.08, vectors.shape)
    noisy[5], noisy[9] = noisy[2], noisy[2]  # an exact tie of three
    texts = [f"{i}" for i in range(len(noisy))]
    texts[12] = texts[3]
    accuracy = retrieval_accuracy(vectors, noisy, texts, texts, chunk_size)
    assert accuracy.forward == pytest.approx(oracle_accuracy(vectors, noisy, texts), abs=1e-9)
    assert accuracy.backward == pytest.approx(oracle_accuracy(noisy, vectors, texts), abs=1e-9)
    assert accuracy.forward < 1


@pytest.mark.parametrize("gold", [0, 1, 2])
def test_retrieval_shares_the_credit_of_exact_ties(gold):
    # Whichever of the three tied candidates is right, it counts 1/3.
    queries = np.eye(4)[[0, 1, 2]] + 0.01
    queries[gold] = [0, 0, 0, 1.0]
    candidates = np.tile([[0.0, 0.0, 0.0, 2.0]], (3, 1))
    assert retrieval_accuracy(queries, candidates).forward == pytest.approx(1 / 3)


def test_retrieval_of_a_collapsed_encoder_is_guessing(vectors):
    collapsed = np.tile(vectors[:1], (15, 1))
    accuracy = retrieval_accuracy(collapsed, collapsed)
    assert (accuracy.forward, accuracy.backward) == pytest.approx((1 / 15, 1 / 15))


def test_retrieval_takes_equal_texts_as_one(vectors):
    texts = [f"{i}" for i in range(15)]
    texts[14] = texts[0]
    candidates = vectors.copy()
    candidates[14] = candidates[0]
    queries = candidates.copy()
    queries[14] = 0.9 * candidates[0] + 0.1 * candidates[1]  # another query, the same answer
    assert retrieval_accuracy(queries, candidates, None, texts).forward == 1.0
    assert retrieval_accuracy(queries, candidates).forward == pytest.approx(14 / 15)


def test_retrieval_ties_survive_float32_rounding():
    # Equal vectors in other places of a matrix product differ in the last bits.
    vector = np.random.default_rng(2).normal(size=384)
    candidates = np.stack([vector, vector * (1 + 1e-7), vector / 3])
    assert retrieval_accuracy(candidates, candidates).mean == pytest.approx(1 / 3)


def test_retrieval_memory_is_linear_in_the_sentences():
    random = np.random.default_rng(3)
    vectors = random.normal(size=(6000, 8)).astype(np.float32)
    tracemalloc.start()
    assert retrieval_accuracy(vectors, vectors, chunk_size=64).mean > 0.99
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The whole matrix would take 6000 * 6000 * 4 bytes = 144 MB.
    assert peak < 15e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 3)), np.ones((3, 3))), r"shapes \(2, 3\) and \(3, 3\)"),
        ((np.ones((0, 3)), np.ones((0, 3))), "at least one row"),
        ((np.ones((2, 3)), np.ones((2, 3)), ["Hi."]), "1 texts for 2 embeddings"),
    ],
    ids=["rows", "empty", "texts"],
)
def test_retrieval_refuses(arguments, message):
    with pytest.raises(InputError, match=message):
        retrieval_accuracy(*arguments)


def test_teacher_match_is_the_mean_cosine(vectors):
    # Lengths do not matter; the second pair is orthogonal: (1 + 0) / 2.
    assert (
        teacher_match(np.array([[3.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [5.0, 0.0]])) == 0.5
    )
    assert teacher_match(7 * vectors, vectors) == pytest.approx(1, abs=1e-12)
    assert teacher_match(-vectors, vectors) == pytest.approx(-1, abs=1e-12)


def test_teacher_match_refuses_other_widths(vectors):
    with pytest.raises(InputError, match=r"\(15, 256\) and \(15, 384\)"):
        teacher_match(vectors[:, :256], vectors)
