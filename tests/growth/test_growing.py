"""Grown Transformers: which plans keep the function, to what, and which do not."""

from __future__ import annotations

import growth_oracles
import keras
import numpy as np
import pytest

import kdkeras
from kdkeras.growth import (
    AdvancedKnowledge,
    Chain,
    FunctionPreserving,
    GrowthPlan,
    HyperCloning,
    IdentityBlocks,
    Interleaving,
    Lemon,
    Net2Wider,
    Stacking,
    ZeroPadding,
    forward_flops,
    grow,
)
from kdkeras.growth.described import describe, variables
from kdkeras.students import TransformerStudent

EVERYTHING = {"hidden_dim": 48, "num_heads": 3, "intermediate_dim": 50, "num_layers": 5}

# Of a model of width 16 (2 heads of 8), feed-forward width 24 and 2 layers.
KEPT = {
    "hidden": ({"hidden_dim": 32}, {}),
    "hidden_three_times": ({"hidden_dim": 48}, {}),
    "head_size": ({"hidden_dim": 32, "num_heads": 2}, {}),
    "head_size_cloned": ({"head_size": 16}, {"operators": HyperCloning()}),
    "heads_and_their_size": ({"hidden_dim": 48, "num_heads": 3}, {}),
    "padded_heads": ({"hidden_dim": 32}, {"operators": {"num_heads": ZeroPadding()}}),
    "intermediate": ({"intermediate_dim": 37}, {}),
    "intermediate_padded": ({"intermediate_dim": 37}, {"operators": ZeroPadding()}),
    "layers_on_top": ({"num_layers": 4}, {}),
    "layers_between": ({"num_layers": 5}, {"depth": IdentityBlocks(where="spread")}),
    "all": (EVERYTHING, {}),
    "all_hypercloning": (
        {"hidden_dim": 32, "intermediate_dim": 48, "num_layers": 3},
        {"operators": HyperCloning(shares="unequal")},
    ),
    "all_net2wider": (EVERYTHING, {"operators": Net2Wider(shares="unequal")}),
    "all_fpi": (EVERYTHING, {"operators": FunctionPreserving(noise=0.0)}),
    "all_lemon": (EVERYTHING, {"operators": Lemon()}),
    "chained": (
        {"hidden_dim": 64, "intermediate_dim": 40},
        {
            "operators": {
                "hidden_dim": Chain(first=HyperCloning(), size=32, second=HyperCloning()),
                "intermediate_dim": Chain(first=Net2Wider(), size=30, second=ZeroPadding()),
            }
        },
    ),
}

# The errors are of embeddings of length 1.
BROKEN = {
    "zero_padding_of_a_norm": ({"hidden_dim": 32}, {"operators": ZeroPadding()}),
    "random_copies_before_a_norm": (
        {"hidden_dim": 32},
        {"operators": Net2Wider(replacement=True)},
    ),
    "no_multiple": ({"hidden_dim": 24}, {}),
    "from_the_layer_above": (
        {"hidden_dim": 32, "intermediate_dim": 48},
        {"operators": AdvancedKnowledge()},
    ),
    "stacking": ({"num_layers": 4}, {"depth": Stacking()}),
    "interleaving": ({"num_layers": 4}, {"depth": Interleaving()}),
}


def weights(model):
    found = variables(model, describe(model))
    return {path: v.value.numpy().astype(float) for path, v in found.items()}


# The same operators, on one axis each, are in the quick ones and in `test_axis_map`.
SLOW = {"hidden_three_times", "head_size_cloned", "padded_heads", "intermediate_padded"} | {
    "heads_and_their_size",
    "all_hypercloning",
    "all_fpi",
    "all_lemon",
}
CASES = [
    pytest.param(*case, id=name, marks=[pytest.mark.slow] * (name in SLOW))
    for name, case in KEPT.items()
]


@pytest.mark.parametrize(("sizes", "settings"), CASES)
def test_the_function_is_kept(trained, texts, batch, sizes, settings):
    grown = grow(trained, GrowthPlan(sizes=sizes, **settings), probe=texts)
    assert np.abs(grown(batch).numpy() - trained(batch).numpy()).max() < 1e-5
    certificate = grown.certificate
    assert certificate.keeps_function and certificate.maximum_error < 1e-5
    assert certificate.cosine_drift < 1e-6
    assert all(step.keeps_function for step in certificate.steps)
    for name, size in sizes.items():
        if name != "head_size":
            assert getattr(grown, name) == size


@pytest.mark.parametrize(("sizes", "settings"), BROKEN.values(), ids=BROKEN)
def test_what_breaks_the_function_is_measured_and_refused(trained, texts, sizes, settings):
    plan = GrowthPlan(sizes=sizes, keeps_function=False, **settings)
    certificate = grow(trained, plan, probe=texts).certificate
    assert not certificate.keeps_function
    assert not all(step.keeps_function for step in certificate.steps)
    assert certificate.maximum_error > 0.001  # a hundred times the tolerance
    with pytest.raises(kdkeras.InputError, match="keep"):
        grow(trained, GrowthPlan(sizes=sizes, **settings), probe=texts)


def test_zeros_alone_are_no_identity_behind_a_norm(trained, batch):
    """Why the norms are exchanged."""
    grown = grow(trained, GrowthPlan(sizes={"num_layers": 3}))
    below, block = grown.blocks[1], grown.blocks[2]
    moved = block.output_norm.get_weights()
    np.testing.assert_array_equal(below.output_norm.gamma, 1)
    for norm in (below.output_norm, block.attention_norm, block.output_norm):
        norm.set_weights(moved)
    assert np.abs(grown(batch).numpy() - trained(batch).numpy()).max() > 0.001


@pytest.fixture(scope="module")
def exact():
    """A model that computes in float64, every weight random."""
    model = TransformerStudent(40, 5, 2, 8, 2, 12, dtype="float64", sequence_length=9)
    generator = np.random.default_rng(3)
    model.set_weights([w + generator.normal(0, 0.4, w.shape) for w in model.get_weights()])
    return model


IDS = np.random.default_rng(1).integers(40, size=(6, 7)).astype("int32")


def unscaled(model, ids=IDS):
    """Embeddings before they are cast to float32 and scaled."""
    batch = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    return np.asarray(model.projection(model.pooled(batch)))


EXACT = {
    "hidden": {"hidden_dim": 16},
    "head_size": {"hidden_dim": 16, "num_heads": 2},
    "heads": {"hidden_dim": 24, "num_heads": 3},
    "intermediate": {"intermediate_dim": 17},
    "layers": {"num_layers": 4},
    "all": {"hidden_dim": 24, "num_heads": 4, "intermediate_dim": 29, "num_layers": 3},
}


@pytest.mark.parametrize("sizes", EXACT.values(), ids=EXACT)
def test_the_function_is_kept_exactly_in_float64(exact, sizes):
    grown = grow(exact, GrowthPlan(sizes=sizes))
    assert unscaled(grown).dtype == np.float64
    np.testing.assert_allclose(unscaled(grown), unscaled(exact), atol=1e-10)


def test_grown_weights_are_the_old_ones_multiplied_out(exact):
    plan = GrowthPlan(
        sizes={"hidden_dim": 16, "intermediate_dim": 24}, operators=HyperCloning(noise=0.0)
    )
    grown = weights(grow(exact, plan))
    for path, expected in growth_oracles.doubled(weights(exact)).items():
        np.testing.assert_allclose(grown[path], expected, atol=1e-12, err_msg=path)


def test_grown_model_computes_what_the_formulas_give_of_the_old_weights(exact):
    sizes = {"hidden_dim": 24, "num_heads": 4, "intermediate_dim": 29, "num_layers": 3}
    found = unscaled(grow(exact, GrowthPlan(sizes=sizes)))
    expected = [growth_oracles.transformer(weights(exact), 2, 2, ids) for ids in IDS]
    # Keras' GELU divides by a root of 2 that was rounded to float32.
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_growing_twice_is_growing_by_the_chain(exact):
    once = HyperCloning(noise=0.0)
    axes = {"hidden_dim": 16, "intermediate_dim": 24}
    twice = grow(exact, GrowthPlan(sizes=axes, operators=once))
    twice = grow(twice, GrowthPlan(sizes={n: 2 * s for n, s in axes.items()}, operators=once))
    chains = {n: Chain(first=once, size=s, second=once) for n, s in axes.items()}
    chains["num_heads"] = Chain(first=once, size=4, second=once)
    plan = GrowthPlan(sizes={n: 2 * s for n, s in axes.items()}, operators=chains)
    at_once = weights(grow(exact, plan))
    for path, value in weights(twice).items():
        np.testing.assert_allclose(value, at_once[path], atol=1e-12, err_msg=path)


def test_new_units_are_the_layer_aboves(exact):
    plan = GrowthPlan(
        sizes={"intermediate_dim": 24}, operators=AdvancedKnowledge(), keeps_function=False
    )
    old, new = weights(exact), weights(grow(exact, plan))
    name = "intermediate_dense.kernel"
    np.testing.assert_array_equal(new[f"blocks.0.{name}"][:, :12], old[f"blocks.0.{name}"])
    # Twice the size: each of the 12 units of the layer above once, in some order.
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


def test_identities_stand_where_they_are_wanted():
    def identities(where):
        layers = IdentityBlocks(where=where).layers(2, 5)
        return [(layer.source, layer.identity) for layer in layers]

    assert identities("top") == [(0, False), (1, False), (1, True), (1, True), (1, True)]
    assert identities("spread") == [(0, False), (0, True), (0, True), (1, False), (1, True)]


def test_without_a_projection_one_is_added(texts, vocabulary):
    keras.utils.set_random_seed(1)
    student = TransformerStudent(
        vocabulary.size, 8, 1, 8, 2, 8, project=False, vocabulary=vocabulary, sequence_length=24
    )
    grown = grow(student, GrowthPlan(sizes={"hidden_dim": 16}), probe=texts)
    assert grown.project and grown.output_dim == 8
    assert grown.certificate.maximum_error < 1e-5
    deeper = grow(student, GrowthPlan(sizes={"num_layers": 2}), probe=texts)
    assert not deeper.project


def test_a_students_own_token_weights_are_kept(trained, vocabulary, texts):
    config = {**trained.get_config(), "token_weights": True}
    student = TransformerStudent.from_config(config)
    student._hold(vocabulary)
    noise = np.random.default_rng(0).normal(size=(vocabulary.size, 1))
    student.token_weight.set_weights([noise])
    grown = grow(student, GrowthPlan(sizes=EVERYTHING), probe=texts)
    assert grown.certificate.maximum_error < 1e-5


# ---- the result ---------------------------------------------------------


def test_growth_leaves_the_old_model_and_is_repeatable(exact):
    before, sizes = exact.get_weights(), {"hidden_dim": 16, "intermediate_dim": 17}
    first, second, other_seed = (
        grow(exact, GrowthPlan(sizes=sizes, seed=seed)).get_weights() for seed in (0, 0, 1)
    )
    for one, other in zip(first, second, strict=True):
        np.testing.assert_array_equal(one, other)
    for one, other in zip(before, exact.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(first, other_seed, strict=True))


@pytest.mark.slow  # A quick one is in `test_growing_tables`.
def test_a_grown_student_survives_saving(trained, texts, tmp_path):
    grown = grow(trained, GrowthPlan(sizes=EVERYTHING), probe=texts)
    grown.save(tmp_path / "grown.keras")
    copy = kdkeras.load(tmp_path / "grown.keras")
    np.testing.assert_array_equal(copy.encode(texts[:8]), grown.encode(texts[:8]))
    assert copy.certificate is None


def test_a_certificate_counts_and_is_json(trained, texts):
    import json

    plan = GrowthPlan(sizes={"hidden_dim": 32, "num_layers": 3})
    grown = grow(trained, plan, probe=texts)
    certificate = grown.certificate
    assert json.loads(json.dumps(certificate.to_dict())) == {
        **certificate.to_dict(),
        "steps": list(certificate.to_dict()["steps"]),
    }
    assert certificate.probe == "texts" and certificate.probe_size == len(texts)
    assert certificate.parameters_before == trained.count_params()
    assert certificate.parameters_after == sum(w.size for w in grown.get_weights())
    length, out = certificate.flops_tokens, grown.output_dim
    assert certificate.flops_before == growth_oracles.flops(2, length, 16, 24, out)
    assert certificate.flops_after == growth_oracles.flops(3, length, 32, 24, out)
    steps = {(s.size, s.operator, s.before, s.after) for s in certificate.steps}
    assert ("hidden_dim", "HyperCloning", 16, 32) in steps
    assert ("num_layers", "IdentityBlocks", 2, 3) in steps


def test_what_growth_itself_costs_is_two_for_each_number_of_its_matrices(exact):
    plan = GrowthPlan(sizes={"intermediate_dim": 24}, operators=HyperCloning(noise=0.0))
    # E and F are [I I]: each new number is one product. Kernel and bias written, a kernel read.
    expected = 2 * 2 * (24 * 8 + 24 + 24 * 8)  # in two layers
    assert grow(exact, plan).certificate.flops_growth == expected
    assert grow(exact, GrowthPlan(sizes={"num_layers": 3})).certificate.flops_growth == 0
    # The width is read and written in turn: (8, 8) becomes (16, 8), then (16, 16).
    plan = GrowthPlan(sizes={"hidden_dim": 16, "num_heads": 2}, operators=HyperCloning(noise=0.0))
    found = grow(exact, plan).certificate.flops_growth
    kernels = [16 * 8 + 16 * 16] * 4  # queries, keys, values, output: (8, 8)
    kernels += [16 * 12] * 2  # feed-forward
    vectors = [16] * 9  # norms, biases of attention and feed-forward's second
    outside = (40 + 9) * 16 + 2 * 16 + 16 * 5  # tables, a norm, the projection
    assert found == 2 * (2 * (sum(kernels) + sum(vectors)) + outside)


def test_flops_are_what_tensorflow_counts(trained):
    import tensorflow as tf

    spec = tf.TensorSpec((1, 16), tf.int32)
    call = tf.function(lambda a, b: trained({"token_ids": a, "padding_mask": b}))
    graph = call.get_concrete_function(spec, spec).graph
    total = 0
    for node in graph.get_operations():
        if node.type in ("MatMul", "BatchMatMulV2"):
            inner = node.inputs[0].shape[-1]
            total += 2 * inner * int(np.prod(node.outputs[0].shape))
    assert forward_flops(trained, 16) == total


def test_a_measured_error_is_the_difference_of_the_embeddings(trained, texts, batch):
    plan = GrowthPlan(sizes={"hidden_dim": 24}, keeps_function=False)
    grown = grow(trained, plan, probe=texts)
    before, after = (student(batch).numpy().astype(float) for student in (trained, grown))
    assert grown.certificate.maximum_error == pytest.approx(np.abs(before - after).max(), rel=1e-3)
    drift = 1 - (before * after).sum(axis=1)
    assert grown.certificate.cosine_drift == pytest.approx(drift.max(), rel=1e-3)
    assert grown.certificate.mean_cosine_drift == pytest.approx(drift.mean(), rel=1e-3)


def test_a_plan_that_does_not_keep_what_it_claims_is_refused(trained, texts):
    """Half precision rounds; the matrices are right."""
    config = {**trained.get_config(), "dtype": "mixed_bfloat16"}
    half = TransformerStudent.from_config(config)
    half._hold(trained.vocabulary)
    half.set_weights(trained.get_weights())
    with pytest.raises(kdkeras.InputError, match="it does not. Received: an error of"):
        grow(half, GrowthPlan(sizes={"hidden_dim": 32}), probe=texts)
    grown = grow(half, GrowthPlan(sizes={"hidden_dim": 32}, tolerance=0.1), probe=texts)
    assert 1e-5 < grown.certificate.maximum_error < 0.1
