"""Grown Transformers: which plans preserve the function, their weights and their certificates."""

from __future__ import annotations

import json

import keras
import numpy as np
import oracles_growth
import pytest
import tensorflow as tf
from contracts import assert_one_line

import kdkeras
from kdkeras.compression import factorize, merge
from kdkeras.growth import (
    AdvancedKnowledge,
    Chain,
    GrowthPlan,
    HyperCloning,
    IdentityBlocks,
    Interleaving,
    Lemon,
    Net2Wider,
    Stacking,
    ZeroPadding,
    grow,
)
from kdkeras.growth.axes import model_values
from kdkeras.students import TransformerStudent, forward_flops

# ---- the function, in float64 ----

IDS = np.random.default_rng(1).integers(40, size=(6, 7)).astype("int32")


def unscaled(model, ids=IDS):
    """Embeddings before they are cast to float32 and normalized."""
    batch = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    return np.asarray(model.projection(model.pooled(batch)))


EVERYTHING = {"hidden_dim": 24, "num_heads": 4, "intermediate_dim": 29, "num_layers": 3}

# Of the fixture `exact`: width 8 (2 heads of 4), feed-forward width 12, 2 layers.
PRESERVED = {
    "hidden": ({"hidden_dim": 16}, {}),
    "hidden_three_times": ({"hidden_dim": 24}, {}),
    "head_size": ({"hidden_dim": 16, "num_heads": 2}, {}),
    "head_size_cloned": ({"head_size": 8}, {"operators": HyperCloning()}),
    "heads": ({"hidden_dim": 24, "num_heads": 3}, {}),
    "padded_heads": ({"hidden_dim": 16}, {"operators": {"num_heads": ZeroPadding()}}),
    "intermediate": ({"intermediate_dim": 17}, {}),
    "intermediate_padded": ({"intermediate_dim": 17}, {"operators": ZeroPadding()}),
    "layers_on_top": ({"num_layers": 4}, {}),
    "layers_between": ({"num_layers": 5}, {"depth": IdentityBlocks(where="spread")}),
    "all": (EVERYTHING, {}),
    "all_hypercloning": (
        {"hidden_dim": 16, "intermediate_dim": 24, "num_layers": 3},
        {"operators": HyperCloning(shares="unequal")},
    ),
    "all_net2wider": (EVERYTHING, {"operators": Net2Wider(shares="unequal")}),
    "all_without_noise": (EVERYTHING, {"operators": Net2Wider(noise=0.0)}),
    "all_lemon": (EVERYTHING, {"operators": Lemon()}),
    "chained": (
        {"hidden_dim": 32, "intermediate_dim": 20},
        {
            "operators": {
                "hidden_dim": Chain(first=HyperCloning(), size=16, second=HyperCloning()),
                "intermediate_dim": Chain(first=Net2Wider(), size=15, second=ZeroPadding()),
            }
        },
    ),
}
CHANGED = {
    "zero_padding_of_a_norm": ({"hidden_dim": 16}, {"operators": ZeroPadding()}),
    "random_copies_before_a_norm": (
        {"hidden_dim": 16},
        {"operators": Net2Wider(replacement=True)},
    ),
    "no_multiple": ({"hidden_dim": 12}, {}),
    "from_the_layer_above": (
        {"hidden_dim": 16, "intermediate_dim": 24},
        {"operators": AdvancedKnowledge()},
    ),
    "stacking": ({"num_layers": 4}, {"depth": Stacking()}),
    "interleaving": ({"num_layers": 4}, {"depth": Interleaving()}),
}


# Each of these axes grows by the same operator in `all`.
SLOW = {"hidden_three_times", "head_size", "heads", "intermediate", "layers_on_top"}
CASES = [
    pytest.param(*case, id=name, marks=[pytest.mark.slow] * (name in SLOW))
    for name, case in PRESERVED.items()
]


@pytest.fixture(scope="module")
def expected(exact):
    return unscaled(exact)


@pytest.mark.parametrize(("sizes", "settings"), CASES)
def test_the_function_is_preserved(exact, expected, sizes, settings):
    grown = grow(exact, GrowthPlan(sizes=sizes, **settings))
    found = unscaled(grown)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, atol=1e-10)
    certificate = grown.certificate
    assert certificate.keeps_function and all(step.keeps_function for step in certificate.steps)
    for name, size in sizes.items():
        if name != "head_size":
            assert getattr(grown, name) == size


@pytest.mark.parametrize(("sizes", "settings"), CHANGED.values(), ids=CHANGED)
def test_a_changed_function_is_measured_or_refused(exact, sizes, settings):
    plan = GrowthPlan(sizes=sizes, keeps_function=False, **settings)
    certificate = grow(exact, plan).certificate
    assert not certificate.keeps_function
    assert not all(step.keeps_function for step in certificate.steps)
    assert certificate.maximum_error > 0.001  # a hundred times the tolerance
    with pytest.raises(kdkeras.InputError, match="preserve"):
        grow(exact, GrowthPlan(sizes=sizes, **settings))


def test_output_kernels_of_zero_alone_do_not_make_an_identity(exact):
    grown = grow(exact, GrowthPlan(sizes={"num_layers": 3}))
    below, block = grown.blocks[1], grown.blocks[2]
    moved = block.output_norm.get_weights()
    np.testing.assert_array_equal(below.output_norm.gamma, 1)
    for norm in (below.output_norm, block.attention_norm, block.output_norm):
        norm.set_weights(moved)
    assert np.abs(unscaled(grown) - unscaled(exact)).max() > 0.001


# ---- the weights ----


def test_grown_weights_are_the_old_ones_multiplied_out(exact):
    plan = GrowthPlan(
        sizes={"hidden_dim": 16, "intermediate_dim": 24}, operators=HyperCloning(noise=0.0)
    )
    grown = model_values(grow(exact, plan))
    for path, expected in oracles_growth.doubled(model_values(exact)).items():
        np.testing.assert_allclose(grown[path], expected, atol=1e-12, err_msg=path)


def test_a_grown_model_computes_the_formulas_with_the_old_weights(exact):
    found = unscaled(grow(exact, GrowthPlan(sizes=EVERYTHING)))
    expected = [oracles_growth.transformer(model_values(exact), 2, 2, ids) for ids in IDS]
    # Keras' GELU rounds the square root of 2 to float32.
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_growing_twice_equals_growing_by_a_chain(exact):
    once = HyperCloning(noise=0.0)
    axes = {"hidden_dim": 16, "intermediate_dim": 24}
    twice = grow(exact, GrowthPlan(sizes=axes, operators=once))
    twice = grow(twice, GrowthPlan(sizes={n: 2 * s for n, s in axes.items()}, operators=once))
    chains = {n: Chain(first=once, size=s, second=once) for n, s in axes.items()}
    chains["num_heads"] = Chain(first=once, size=4, second=once)
    plan = GrowthPlan(sizes={n: 2 * s for n, s in axes.items()}, operators=chains)
    at_once = model_values(grow(exact, plan))
    for path, value in model_values(twice).items():
        np.testing.assert_allclose(value, at_once[path], atol=1e-12, err_msg=path)


def test_new_units_are_copied_from_the_layer_above(exact):
    plan = GrowthPlan(
        sizes={"intermediate_dim": 24}, operators=AdvancedKnowledge(), keeps_function=False
    )
    old, new = model_values(exact), model_values(grow(exact, plan))
    name = "intermediate_dense.kernel"
    np.testing.assert_array_equal(new[f"blocks.0.{name}"][:, :12], old[f"blocks.0.{name}"])
    # At twice the size, each of the 12 units of the layer above occurs once, in some order.
    above = np.sort(old[f"blocks.1.{name}"], axis=1)
    np.testing.assert_array_equal(np.sort(new[f"blocks.0.{name}"][:, 12:], axis=1), above)
    np.testing.assert_array_equal(np.sort(new[f"blocks.1.{name}"][:, 12:], axis=1), above)


def test_stacked_and_interleaved_layers_are_copies(exact):
    old = [block.get_weights() for block in exact.blocks]
    for depth, order in ((Stacking(), (0, 1, 0, 1, 0)), (Interleaving(), (0, 0, 0, 1, 1))):
        plan = GrowthPlan(sizes={"num_layers": 5}, depth=depth, keeps_function=False)
        for block, source in zip(grow(exact, plan).blocks, order, strict=True):
            for found, expected in zip(block.get_weights(), old[source], strict=True):
                np.testing.assert_array_equal(found, expected)


def test_identity_layers_are_on_top_or_spread():
    def identities(where):
        layers = IdentityBlocks(where=where).layers(2, 5)
        return [(layer.source, layer.identity) for layer in layers]

    assert identities("top") == [(0, False), (1, False), (1, True), (1, True), (1, True)]
    assert identities("spread") == [(0, False), (0, True), (0, True), (1, False), (1, True)]


def test_a_wider_student_without_a_projection_gets_one():
    keras.utils.set_random_seed(1)
    student = TransformerStudent(40, 8, 1, 8, 2, 8, project=False, sequence_length=24)
    grown = grow(student, GrowthPlan(sizes={"hidden_dim": 16}))
    assert grown.project and grown.output_dim == 8
    assert grown.certificate.maximum_error < 1e-5
    deeper = grow(student, GrowthPlan(sizes={"num_layers": 2}))
    assert not deeper.project


def test_token_weights_of_a_transformer_are_preserved(exact):
    student = TransformerStudent(
        40, 5, 2, 8, 2, 12, token_weights=True, dtype="float64", sequence_length=9
    )
    noise = np.random.default_rng(0)
    student.set_weights([w + noise.normal(0, 0.4, w.shape) for w in student.get_weights()])
    grown = grow(student, GrowthPlan(sizes=EVERYTHING))
    np.testing.assert_allclose(unscaled(grown), unscaled(student), atol=1e-10)


@pytest.mark.parametrize(
    ("ranks", "products"), [({"table": 3}, "['table']"), ({"qkv": 4}, "['qkv']")]
)
def test_factorized_students_must_be_merged_first(exact, ranks, products):
    narrow = factorize(exact, ranks)
    plan = GrowthPlan(sizes={"hidden_dim": 16})
    with pytest.raises(kdkeras.InputError) as error:
        grow(narrow, plan)
    assert_one_line(str(error.value), products, "kdkeras.compression.merge(student)")
    grown = grow(merge(narrow), plan)
    assert grown.hidden_dim == 16
    np.testing.assert_allclose(unscaled(grown), unscaled(narrow), atol=1e-6)


def test_growth_is_repeatable_and_does_not_modify_the_old_model(exact):
    before, sizes = exact.get_weights(), {"hidden_dim": 16, "intermediate_dim": 17}
    first, second, other_seed = (
        grow(exact, GrowthPlan(sizes=sizes, seed=seed)).get_weights() for seed in (0, 0, 1)
    )
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(before, exact.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(first, other_seed, strict=True))


# ---- real sentences, and the certificate ----


@pytest.fixture(scope="module")
def larger(trained, texts):
    sizes = {"hidden_dim": 48, "num_heads": 3, "intermediate_dim": 50, "num_layers": 3}
    return grow(trained, GrowthPlan(sizes=sizes), probe=texts)


def test_real_sentences_keep_their_embeddings(trained, larger, batch):
    assert np.abs(larger(batch).numpy() - trained(batch).numpy()).max() < 1e-5
    certificate = larger.certificate
    assert certificate.keeps_function and certificate.maximum_error < 1e-5
    assert certificate.cosine_drift < 1e-6


@pytest.mark.slow  # `test_growing_tables` has a quick test of the same property.
def test_a_grown_student_is_saved(larger, texts, tmp_path):
    larger.save(tmp_path / "grown.keras")
    copy = kdkeras.load(tmp_path / "grown.keras")
    np.testing.assert_array_equal(copy.encode(texts[:8]), larger.encode(texts[:8]))
    assert copy.certificate is None


def test_the_certificate_counts_and_is_json(trained, larger, texts):
    certificate = larger.certificate
    assert json.loads(json.dumps(certificate.to_dict())) == {
        **certificate.to_dict(),
        "steps": list(certificate.to_dict()["steps"]),
    }
    assert certificate.probe == "texts" and certificate.probe_size == len(texts)
    assert certificate.parameters_before == trained.count_params()
    assert certificate.parameters_after == sum(w.size for w in larger.get_weights())
    length, out = certificate.flops_tokens, larger.output_dim
    assert certificate.flops_before == oracles_growth.flops(2, length, 16, 24, out)
    assert certificate.flops_after == oracles_growth.flops(3, length, 48, 50, out)
    steps = {(s.size, s.operator, s.before, s.after) for s in certificate.steps}
    assert ("hidden_dim", "HyperCloning", 16, 48) in steps
    assert ("num_layers", "IdentityBlocks", 2, 3) in steps


def test_growth_costs_two_flops_per_element_of_its_matrices(exact):
    plan = GrowthPlan(sizes={"intermediate_dim": 24}, operators=HyperCloning(noise=0.0))
    # E and F are [I I]: one product per new element. A kernel and a bias are written, one
    # kernel is read.
    expected = 2 * 2 * (24 * 8 + 24 + 24 * 8)  # in two layers
    assert grow(exact, plan).certificate.flops_growth == expected
    assert grow(exact, GrowthPlan(sizes={"num_layers": 3})).certificate.flops_growth == 0
    # A kernel (8, 8) becomes (16, 8), then (16, 16).
    plan = GrowthPlan(sizes={"hidden_dim": 16, "num_heads": 2}, operators=HyperCloning(noise=0.0))
    found = grow(exact, plan).certificate.flops_growth
    kernels = [16 * 8 + 16 * 16] * 4  # queries, keys, values, output: (8, 8)
    kernels += [16 * 12] * 2  # feed-forward
    vectors = [16] * 9  # norms, and biases of attention and of the feed-forward output
    outside = (40 + 9) * 16 + 2 * 16 + 16 * 5  # tables, a norm, the projection
    assert found == 2 * (2 * (sum(kernels) + sum(vectors)) + outside)


def test_flops_are_those_that_tensorflow_counts(exact):
    spec = tf.TensorSpec((1, 9), tf.int32)
    call = tf.function(lambda a, b: exact({"token_ids": a, "padding_mask": b}))
    graph = call.get_concrete_function(spec, spec).graph
    total = 0
    for node in graph.get_operations():
        if node.type in ("MatMul", "BatchMatMulV2"):
            inner = node.inputs[0].shape[-1]
            total += 2 * inner * int(np.prod(node.outputs[0].shape))
    assert forward_flops(exact, 9) == total


def test_the_measured_error_is_the_difference_of_the_embeddings(trained, texts, batch):
    plan = GrowthPlan(sizes={"hidden_dim": 24}, keeps_function=False)
    grown = grow(trained, plan, probe=texts)
    before, after = (student(batch).numpy().astype(float) for student in (trained, grown))
    assert grown.certificate.maximum_error == pytest.approx(np.abs(before - after).max(), rel=1e-3)
    drift = 1 - (before * after).sum(axis=1)
    assert grown.certificate.cosine_drift == pytest.approx(drift.max(), rel=1e-3)
    assert grown.certificate.mean_cosine_drift == pytest.approx(drift.mean(), rel=1e-3)


def test_rounding_beyond_the_tolerance_is_refused():
    """The operators preserve the function, but half precision rounds."""
    half = TransformerStudent(40, 5, 2, 8, 2, 12, dtype="mixed_bfloat16", sequence_length=9)
    noise = np.random.default_rng(3)
    half.set_weights([w + noise.normal(0, 0.2, w.shape) for w in half.get_weights()])
    with pytest.raises(kdkeras.InputError, match="same embeddings. Received: an error of"):
        grow(half, GrowthPlan(sizes={"hidden_dim": 16}))
    grown = grow(half, GrowthPlan(sizes={"hidden_dim": 16}, tolerance=0.2))
    assert 1e-5 < grown.certificate.maximum_error < 0.2
