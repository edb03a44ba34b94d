"""Initialization of students from their teacher's weights."""

from __future__ import annotations

import json
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdkeras import InputError, teachers
from kdkeras.data import train_vocabulary
from kdkeras.layers import TransformerBlock
from kdkeras.students import StaticStudent, TransformerStudent
from kdkeras.students.initialization import (
    choose_layers,
    copy_block,
    copy_embedding_layers,
    initialize_from_teacher,
    token_vectors,
)

TEACHERS = Path(__file__).parents[1] / "teachers"
SENTENCES = json.loads((TEACHERS / "tiny_vectors.json").read_text("utf-8"))["sentences"]


@pytest.fixture(scope="module")
def teacher():
    return teachers.load(TEACHERS / "tiny_bert" / "mean")


@pytest.fixture(scope="module", params=["wordpiece", "sentencepiece"])
def vocabulary(request):
    return train_vocabulary(SENTENCES, size=180, kind=request.param)


@pytest.fixture(scope="module")
def wordpiece():
    return train_vocabulary(SENTENCES, size=180, kind="wordpiece")


def transformer(vocabulary_size, vocabulary=None, **sizes):
    sizes = {"num_layers": 2, "hidden_dim": 32, "num_heads": 4, "intermediate_dim": 64} | sizes
    return TransformerStudent(
        vocabulary_size, 32, project=False, sequence_length=48, vocabulary=vocabulary, **sizes
    )


def test_a_student_with_all_layers_copied_equals_the_teacher(teacher):
    student = transformer(600)
    student.token_embedding.table.assign(teacher.token_embeddings()[1])
    copy_embedding_layers(student, teacher)
    for layer, block in zip(teacher.model.backbone.transformer_layers, student.blocks, strict=True):
        copy_block(layer, block)
    batch = {key: tf.constant(value) for key, value in teacher.tokenize(SENTENCES).items()}
    real = np.asarray(batch["padding_mask"]).astype(bool)
    states = zip(student.hidden_states(batch), teacher.model.hidden_states(batch), strict=True)
    for found, expected in states:
        assert np.abs(np.asarray(found)[real] - np.asarray(expected)[real]).max() <= 1e-5
    # Pooling and normalization are the same.
    assert np.abs(np.asarray(student(batch)) - teacher.encode(SENTENCES)).max() <= 1e-5


def test_equal_sizes_copy_the_chosen_layers(teacher, wordpiece):
    student = transformer(wordpiece.size, wordpiece, num_layers=1)
    report = initialize_from_teacher(student, teacher)
    last = teacher.model.backbone.transformer_layers[1]
    assert report.layers == (1,)
    np.testing.assert_array_equal(
        student.blocks[0].intermediate_dense.kernel, last._feedforward_intermediate_dense.kernel
    )
    # Token vectors are copied without projection.
    tokens, vectors = teacher.token_embeddings()
    np.testing.assert_array_equal(
        student.token_embedding.table[wordpiece.tokens.index("tom")], vectors[tokens.index("tom")]
    )


def test_other_sizes_copy_token_vectors_only(teacher, wordpiece):
    student = transformer(wordpiece.size, wordpiece, intermediate_dim=128)
    block = student.blocks[0].get_weights()
    report = initialize_from_teacher(student, teacher)
    assert report.layers == ()
    assert report.shared_tokens > 50
    for before, after in zip(block, student.blocks[0].get_weights(), strict=True):
        np.testing.assert_array_equal(before, after)


def test_a_factorized_table_is_the_best_approximation_of_the_teachers(teacher, wordpiece):
    whole, narrow = (transformer(wordpiece.size, wordpiece, table_rank=r) for r in (None, 20))
    for student in (whole, narrow):
        initialize_from_teacher(student, teacher)
    vectors = whole.token_embedding.table.numpy().astype(np.float64)
    table, kernel = narrow.token_embedding.get_weights()
    error = ((vectors - table @ kernel) ** 2).sum()
    squares = np.linalg.svd(vectors, compute_uv=False) ** 2
    assert error == pytest.approx(squares[20:].sum(), rel=1e-3)
    np.testing.assert_array_equal(
        narrow.blocks[0].qkv_dense.kernel, whole.blocks[0].qkv_dense.kernel
    )


def test_a_static_student_gets_token_vectors(teacher, vocabulary):
    keras.utils.set_random_seed(0)
    student = StaticStudent(vocabulary.size, 32, 16, vocabulary=vocabulary)
    before = student.token_embedding.get_weights()[0]
    report = initialize_from_teacher(student, teacher)
    after = student.token_embedding.get_weights()[0]
    assert (report.num_tokens, report.layers) == (vocabulary.size, ())
    assert 0 < report.shared_tokens <= vocabulary.size
    assert report.shared_tokens + report.composed_tokens <= vocabulary.size
    assert not np.allclose(before, after)
    assert after.std() == pytest.approx(before.std(), rel=0.3)


def shared_rows(teacher, vocabulary):
    """Rows of the tokens that student and teacher share."""
    rows = {teacher.surface(token): row for row, token in enumerate(teacher.token_embeddings()[0])}
    surfaces = [vocabulary.surface(token) for token in vocabulary.tokens]
    pairs = [(i, rows[s]) for i, s in enumerate(surfaces) if s[0] and s in rows]
    return np.array(pairs).T


@pytest.mark.parametrize("dim", [32, 48], ids=["equal", "wider"])
def test_projection_preserves_inner_products(teacher, vocabulary, dim):
    vectors, shared, _ = token_vectors(vocabulary, teacher, dim, scale=0.05)
    own, theirs = shared_rows(teacher, vocabulary)
    table = teacher.token_embeddings()[1]
    expected = table[theirs] - table.mean(axis=0)
    found = vectors[own]
    assert len(own) > 20
    assert shared[own].all()
    scale = np.linalg.norm(found) / np.linalg.norm(expected)
    np.testing.assert_allclose(found @ found.T, scale**2 * expected @ expected.T, atol=1e-5)


def test_narrower_tables_contain_the_principal_components(teacher, vocabulary):
    vectors, _, _ = token_vectors(vocabulary, teacher, 8, scale=0.05)
    own, theirs = shared_rows(teacher, vocabulary)
    table = teacher.token_embeddings()[1].astype(np.float64)
    centered = table - table.mean(axis=0)
    _, _, axes = np.linalg.svd(centered, full_matrices=False)
    components = centered @ axes[:8].T
    # The standard deviation of the whole projected table is `scale`; signs are free.
    expected = components[theirs] * 0.05 / components.std()
    np.testing.assert_allclose(np.abs(vectors[own]), np.abs(expected), atol=1e-5)


def test_vectors_of_equal_width_and_scale_are_copied(teacher, wordpiece):
    vectors, shared, _ = token_vectors(wordpiece, teacher, 32, scale=None)
    tokens, table = teacher.token_embeddings()
    row = wordpiece.tokens.index("[CLS]")  # Special tokens match by name.
    assert shared[row]
    np.testing.assert_array_equal(vectors[row], table[tokens.index("[CLS]")])


def test_other_tokens_get_the_mean_of_the_teachers_pieces_or_stay_random(teacher):
    vocabulary = train_vocabulary(SENTENCES, size=400, kind="sentencepiece")
    first, shared, _ = token_vectors(vocabulary, teacher, 32, seed=1, scale=None)
    second, _, _ = token_vectors(vocabulary, teacher, 32, seed=2, scale=None)
    tokens, table = teacher.token_embeddings()
    composed, spelled = [], []
    for row in np.flatnonzero(~shared):
        text = vocabulary.surface(vocabulary.tokens[row])[0]
        pieces = teacher.pieces(text) if text.strip() else None
        letters = [len(tokens[p]) == 3 and tokens[p].startswith("##") for p in pieces or [0]]
        if pieces and np.mean(letters) <= 0.5:
            composed.append(text)
            np.testing.assert_allclose(first[row], table[pieces].mean(axis=0), atol=1e-6)
        else:
            # Split into characters, or unknown.
            spelled.append(text)
            assert not np.allclose(first[row], second[row])
    assert len(composed) > 10
    assert len([text for text in spelled if len(text) > 1]) > 3


def test_projection_depends_on_the_seed(teacher, wordpiece):
    one, again = (token_vectors(wordpiece, teacher, 48, seed=3)[0] for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert not np.allclose(one, token_vectors(wordpiece, teacher, 48, seed=4)[0])


@pytest.mark.parametrize(
    ("teacher_layers", "student_layers", "chosen"),
    [
        (6, 3, [1, 3, 5]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (12, 5, [1, 3, 6, 8, 11]),
        (12, 1, [11]),
        (6, 4, [0, 2, 3, 5]),
    ],
)
def test_choose_layers_spaces_evenly_up_to_the_last(teacher_layers, student_layers, chosen):
    assert choose_layers(teacher_layers, student_layers) == chosen


@pytest.mark.parametrize("student_layers", [0, 7])
def test_choose_layers_refuses_none_and_too_many(student_layers):
    with pytest.raises(InputError, match=f"from 1 to 6, .*num_layers={student_layers}"):
        choose_layers(6, student_layers)


@pytest.mark.parametrize(
    ("sizes", "received"),
    [
        ((64, 4, 64), r"teacher \(32, 4, 64\), student \(64, 4, 64\)"),
        ((32, 2, 64), r"student \(32, 2, 64\)"),
        ((32, 4, 128), r"student \(32, 4, 128\)"),
    ],
    ids=["hidden", "heads", "feed-forward"],
)
def test_copy_block_refuses_other_sizes_and_names_both(teacher, sizes, received):
    block = TransformerBlock(*sizes)
    block.build((None, None, sizes[0]))
    with pytest.raises(InputError, match=received):
        copy_block(teacher.model.backbone.transformer_layers[0], block)


def test_a_layer_is_copied_into_factorized_kernels(teacher):
    whole, split = (
        TransformerBlock(32, 4, 64, kernel_ranks=ranks)
        for ranks in (None, {"qkv": 32, "attention_output": 32, "feedforward": 32})
    )
    for block in (whole, split):
        block.build((None, None, 32))
        copy_block(teacher.model.backbone.transformer_layers[0], block)
    hidden = np.random.default_rng(0).normal(size=(2, 5, 32)).astype("float32")
    mask = np.ones((2, 5), "int32")
    np.testing.assert_allclose(split(hidden, mask), whole(hidden, mask), atol=1e-5)


def test_positions_of_another_width_are_refused(teacher):
    student = TransformerStudent(600, 32, 2, 16, 4, 64, sequence_length=48)
    with pytest.raises(InputError, match=r"student \(48, 16\), teacher \(64, 32\)"):
        copy_embedding_layers(student, teacher)


def test_a_student_without_a_vocabulary_is_refused(teacher):
    with pytest.raises(InputError, match="without a vocabulary"):
        initialize_from_teacher(transformer(600), teacher)
