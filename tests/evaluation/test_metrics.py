"""Metrics compared with float64 oracles of their definitions."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdkeras import InputError
from kdkeras.evaluation.metrics import retrieval_accuracy, spearman, teacher_match

REFERENCE = Path(__file__).parents[1] / "teachers" / "reference_vectors.json"


@pytest.fixture(scope="module")
def vectors():
    """Embeddings of real sentences by all-MiniLM-L6-v2, `(15, 384)`."""
    return np.array(json.loads(REFERENCE.read_text("utf-8"))["vectors"])


def oracle_accuracy(queries, candidates, texts):
    """Computes the accuracy row by row; equal texts are one result, ties share the credit."""
    queries, candidates = np.asarray(queries, np.float64), np.asarray(candidates, np.float64)
    credit = 0.0
    for i, query in enumerate(queries):
        cosines = [query @ c / (np.linalg.norm(query) * np.linalg.norm(c)) for c in candidates]
        best = {texts[j] for j, cosine in enumerate(cosines) if cosine >= max(cosines) - 1e-6}
        credit += (texts[i] in best) / len(best)
    return credit / len(queries)


def oracle_ranks(values):
    """Computes the average position of each value in the sorted list."""
    return [np.mean(np.flatnonzero(np.sort(values) == value)) for value in values]


def test_spearman_gives_ties_their_average_rank():
    # Ranks of x: 1, 2.5, 2.5, 4; of y: 1, 2, 3, 4. Centered: -1.5, 0, 0, 1.5 and
    # -1.5, -.5, .5, 1.5: 4.5 / sqrt(4.5 * 5) = 0.9487.
    assert spearman(np.array([0, 5, 5, 9]), np.array([1, 2, 3, 4])) == pytest.approx(0.9486833)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=2, max_size=20))
def test_spearman_is_the_correlation_of_the_ranks_or_rejected(rows):
    x, y = np.array(rows, np.float64).T
    if len(set(x)) == 1 or len(set(y)) == 1:
        with pytest.raises(InputError, match="values that differ"):
            spearman(x, y)
    else:
        expected = np.corrcoef(oracle_ranks(x), oracle_ranks(y))[0, 1]
        assert spearman(x, y) == pytest.approx(expected, abs=1e-12)


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
def test_spearman_rejects_invalid_input(x, y, message):
    with pytest.raises(InputError, match=message):
        spearman(np.array(x), np.array(y))


def test_retrieval_is_measured_in_both_directions():
    # The nearest candidate of query 1 is candidate 2, and the nearest query of candidate 1
    # is query 0: both are wrong, everything else is right.
    queries = np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.6, 0.8]])
    candidates = np.array([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, 0.7, 0.7]])
    accuracy = retrieval_accuracy(queries, candidates)
    assert (accuracy.forward, accuracy.backward) == pytest.approx((2 / 3, 2 / 3))
    swapped = retrieval_accuracy(queries[:2], candidates[[0, 2]])
    assert (swapped.forward, swapped.backward, swapped.mean) == (1.0, 1.0, 1.0)


def test_retrieval_directions_can_differ():
    # Both queries find candidate 0; each candidate finds its own query.
    accuracy = retrieval_accuracy(
        np.array([[1.0, 0.0], [0.9, 0.1]]), np.array([[1.0, 0.0], [0.1, 0.9]])
    )
    assert (accuracy.forward, accuracy.backward, accuracy.mean) == (0.5, 1.0, 0.75)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 1000])
def test_retrieval_equals_the_oracle_for_every_chunk_size(vectors, chunk_size):
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
def test_ties_share_the_credit(gold):
    # Each of the three tied candidates counts 1/3 if it is right.
    queries = np.eye(4)[[0, 1, 2]] + 0.01
    queries[gold] = [0, 0, 0, 1.0]
    candidates = np.tile([[0.0, 0.0, 0.0, 2.0]], (3, 1))
    assert retrieval_accuracy(queries, candidates).forward == pytest.approx(1 / 3)


def test_constant_encoder_scores_like_random_guessing(vectors):
    collapsed = np.tile(vectors[:1], (15, 1))
    accuracy = retrieval_accuracy(collapsed, collapsed)
    assert (accuracy.forward, accuracy.backward) == pytest.approx((1 / 15, 1 / 15))


def test_equal_texts_count_as_one_sentence(vectors):
    texts = [f"{i}" for i in range(15)]
    texts[14] = texts[0]
    candidates = vectors.copy()
    candidates[14] = candidates[0]
    queries = candidates.copy()
    queries[14] = 0.9 * candidates[0] + 0.1 * candidates[1]  # another query with the same result
    assert retrieval_accuracy(queries, candidates, None, texts).forward == 1.0
    assert retrieval_accuracy(queries, candidates).forward == pytest.approx(14 / 15)


def test_rounding_does_not_break_ties():
    # Equal vectors at other positions of a matrix product differ in the last bits.
    vector = np.random.default_rng(2).normal(size=384)
    candidates = np.stack([vector, vector * (1 + 1e-7), vector / 3])
    assert retrieval_accuracy(candidates, candidates).mean == pytest.approx(1 / 3)


def test_memory_of_retrieval_is_linear_in_the_number_of_sentences():
    random = np.random.default_rng(3)
    vectors = random.normal(size=(2000, 8)).astype(np.float32)
    tracemalloc.start()
    assert retrieval_accuracy(vectors, vectors, chunk_size=64).mean > 0.99
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # The full matrix would need 2000 * 2000 * 4 bytes = 16 MB.
    assert peak < 5e6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((np.ones((2, 3)), np.ones((3, 3))), r"shapes \(2, 3\) and \(3, 3\)"),
        ((np.ones((0, 3)), np.ones((0, 3))), "at least one row"),
        ((np.ones((2, 3)), np.ones((2, 3)), ["Hi."]), "1 texts for 2 embeddings"),
    ],
    ids=["rows", "empty", "texts"],
)
def test_retrieval_rejects_invalid_input(arguments, message):
    with pytest.raises(InputError, match=message):
        retrieval_accuracy(*arguments)


def test_teacher_match_is_the_mean_cosine(vectors):
    # Norms do not matter; the second pair is orthogonal: (1 + 0) / 2.
    assert (
        teacher_match(np.array([[3.0, 0.0], [0.0, 1.0]]), np.array([[1.0, 0.0], [5.0, 0.0]])) == 0.5
    )
    assert teacher_match(7 * vectors, vectors) == pytest.approx(1, abs=1e-12)
    assert teacher_match(-vectors, vectors) == pytest.approx(-1, abs=1e-12)


def test_teacher_match_rejects_other_widths(vectors):
    with pytest.raises(InputError, match=r"\(15, 256\) and \(15, 384\)"):
        teacher_match(vectors[:, :256], vectors)
