"""Grown static students: wider tables, and layers on top of them."""

from __future__ import annotations

import numpy as np
import pytest
from growth_students import train

import kdkeras
from kdkeras.compression import factorize
from kdkeras.export import LiteStudent, export_student
from kdkeras.growth import GrowthPlan, HyperCloning, Lemon, Net2Wider, ZeroPadding, grow
from kdkeras.students import StaticStudent, TransformerStudent

LAYERS = {"num_layers": 2, "hidden_dim": 20, "num_heads": 2, "intermediate_dim": 28}


@pytest.fixture(scope="module")
def layered(trained_static, texts):
    """A Transformer of 2 layers, grown from a table of width 16."""
    return grow(trained_static, GrowthPlan(sizes=LAYERS), probe=texts)


@pytest.mark.parametrize(
    "operators", [{}, Net2Wider(), Lemon(), ZeroPadding(random_readers=False)], ids=repr
)
def test_a_wider_table_preserves_the_embeddings(trained_static, texts, operators):
    plan = GrowthPlan(sizes={"embedding_dim": 25}, operators=operators)
    grown = grow(trained_static, plan, probe=texts)
    assert grown.certificate.maximum_error < 1e-5
    assert grown.token_embedding.dim == 25 and isinstance(grown, StaticStudent)


def test_new_columns_of_a_table_learn(trained_static, lessons):
    grown = grow(trained_static, GrowthPlan(sizes={"embedding_dim": 25}))
    train(grown, lessons, 2)
    assert np.abs(grown.token_embedding.table.value.numpy()[:, 16:]).max() > 1e-3


def test_layers_on_a_table_preserve_the_embeddings(trained_static, layered, texts):
    certificate = layered.certificate
    assert isinstance(layered, TransformerStudent) and layered.num_layers == 2
    assert layered.token_weights and certificate.keeps_function
    assert certificate.maximum_error < 1e-5 and certificate.cosine_drift < 1e-6
    rows = trained_static.vocabulary_size + trained_static.output_dim  # (rows, 16) @ (16, 20)
    assert certificate.flops_growth == 2 * rows * 16 * 20
    difference = layered.encode(texts[:16]) - trained_static.encode(texts[:16])
    assert np.abs(difference).max() < 1e-5


def test_a_table_without_token_weights_grows(trained_static, texts, batch):
    narrow = factorize(trained_static, {"table": 6})
    for sizes in ({"embedding_dim": 10}, {"num_layers": 1, "hidden_dim": 8, "num_heads": 2}):
        grown = grow(narrow, GrowthPlan(sizes=sizes), probe=texts)
        assert grown.token_weight is not None
        assert np.abs(grown(batch) - narrow(batch)).max() < 1e-5


def test_layers_on_a_table_learn_from_the_first_steps(layered, lessons):
    grown = layered.clone()
    before = [block.output_dense.kernel.value.numpy() for block in grown.blocks]
    assert all(not kernel.any() for kernel in before)
    batch = lessons[0]
    reversed_ids = {**batch, "token_ids": batch["token_ids"][:, ::-1]}
    reversed_ids["padding_mask"] = batch["padding_mask"][:, ::-1]
    np.testing.assert_allclose(
        grown(batch), grown(reversed_ids), atol=1e-5
    )  # positions have no effect yet
    train(grown, lessons, 4, rate=0.01)
    for block in grown.blocks:
        for dense in (block.output_dense, block.feedforward_dense):
            assert np.abs(dense.kernel.value.numpy()).max() > 1e-3
    assert np.abs(grown(batch) - grown(reversed_ids)).max() > 1e-3


def test_tokens_with_a_zero_vector_are_preserved(trained_static):
    student = trained_static.clone()
    table = student.token_embedding.table.value.numpy()
    table[[7, 9]] = 0
    student.token_embedding.set_weights([table])
    ids = np.array([[7, 9, 7], [7, 300, 400]], "int32")
    batch = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    assert grow(student, GrowthPlan(sizes=LAYERS), probe=batch).certificate.maximum_error < 1e-5


def test_a_projection_of_low_rank_requires_less_width(trained_static, texts):
    """A projection to 5 dimensions reads 5 directions of a table of width 16."""
    student = trained_static.clone(output_dim=5, copy_weights=False)
    sizes = {"num_layers": 1, "hidden_dim": 6, "num_heads": 2}
    grown = grow(student, GrowthPlan(sizes=sizes), probe=texts)
    assert grown.hidden_dim == 6 and grown.certificate.maximum_error < 1e-5


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ({}, (64, 1, 256)),
        ({"head_size": 9}, (18, 2, 72)),
        ({"num_heads": 3, "head_size": 10}, (30, 3, 120)),
        ({"hidden_dim": 130}, (130, 5, 520)),
        ({"hidden_dim": 24, "intermediate_dim": 30}, (24, 1, 30)),
    ],
    ids=str,
)
def test_omitted_sizes_follow_from_the_others(sizes, found):
    table = StaticStudent(30, 20, 16)
    grown = grow(table, GrowthPlan(sizes={"num_layers": 1, **sizes}))
    assert (grown.hidden_dim, grown.num_heads, grown.intermediate_dim) == found


def test_a_table_with_layers_can_grow_again(layered, texts):
    plan = GrowthPlan(
        sizes={"hidden_dim": 40, "num_layers": 3, "intermediate_dim": 40}, operators=HyperCloning()
    )
    with pytest.raises(kdkeras.InputError, match="multiple of 28"):
        grow(layered, plan, probe=texts)
    plan = GrowthPlan(sizes={"hidden_dim": 40, "num_layers": 3, "intermediate_dim": 40})
    grown = grow(layered, plan, probe=texts)
    assert grown.token_weights and grown.certificate.maximum_error < 1e-5


def test_a_grown_student_is_saved_and_exported(layered, lessons, texts, tmp_path):
    """After a few training steps, so that layers, positions and token weights have an effect."""
    student = layered.clone()
    train(student, lessons, 4)
    expected = student.encode(texts[:16])
    student.save(tmp_path / "student.keras")
    np.testing.assert_array_equal(
        kdkeras.load(tmp_path / "student.keras").encode(texts[:16]), expected
    )
    export_student(student, tmp_path / "out", formats=["tflite_float32"], sequence_lengths=())
    found = LiteStudent(tmp_path / "out", "tflite_float32").encode(texts[:16])
    np.testing.assert_allclose(found, expected, atol=2e-6)


def test_new_layers_are_drawn_from_the_plans_seed():
    table = StaticStudent(30, 20, 16)
    first, second, other = (
        grow(table, GrowthPlan(sizes=LAYERS, seed=seed)).get_weights() for seed in (1, 1, 2)
    )
    for one, two in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, two)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(first, other, strict=True))
