"""Kernels and tables as products, and products multiplied out again."""

from __future__ import annotations

import growth_oracles
import numpy as np
import pytest
import tensorflow as tf
from contracts import assert_one_line

import kdkeras
from kdkeras.errors import InputError
from kdkeras.growth import GrowthPlan, factorize, forward_flops, grow, merge
from kdkeras.growth.described import describe, variables
from kdkeras.layers.factorized_embedding import low_rank_factors
from kdkeras.layers.transformer_block import KERNELS
from kdkeras.students import TransformerStudent

# Of a student of width 16 and feed-forward width 24: the full rank of each kernel.
FULL = {"qkv": 16, "attention_output": 16, "intermediate": 16, "feedforward": 16, "projection": 16}
LOW = {"qkv": 5, "attention_output": 3, "intermediate": 6, "feedforward": 4, "projection": 9}


def apart(one, other, batch):
    """Largest difference of the embeddings of real sentences."""
    return np.abs(one(batch, training=False) - other(batch, training=False)).max()


# ---- the factors --------------------------------------------------------


def test_factors_by_hand():
    # Of W = diag(2, 3) the second direction is larger. Inputs of variance 4 and 1 make it
    # x W of variance 4 * 4 = 16 and 9: the first is.
    kernel = np.diag([2.0, 3.0])
    left, right = low_rank_factors(kernel, 1)
    np.testing.assert_allclose(left @ right, np.diag([0.0, 3.0]), atol=1e-12)
    left, right = low_rank_factors(kernel, 1, np.diag([4.0, 1.0]))
    np.testing.assert_allclose(left @ right, np.diag([2.0, 0.0]), atol=1e-12)


def test_factors_are_the_nearest_on_the_inputs():
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(6, 8))
    inputs = generator.normal(size=(90, 6)) * [9, 5, 3, 1, 0.5, 0.1] + 0.3
    outputs = inputs @ kernel
    for rank in (1, 3, 5):
        left, right = low_rank_factors(kernel, rank, inputs.T @ inputs)
        error = ((outputs - inputs @ left @ right) ** 2).sum()
        # The truncated decomposition of the outputs themselves is the nearest that can be.
        tail = (np.linalg.svd(outputs)[1][rank:] ** 2).sum()
        assert error == pytest.approx(tail, rel=1e-4)
    left, right = low_rank_factors(kernel, 6, inputs.T @ inputs)
    np.testing.assert_allclose(left @ right, kernel, atol=1e-12)


def test_full_rank_keeps_directions_that_no_input_has():
    kernel = np.random.default_rng(0).normal(size=(5, 7))
    left, right = low_rank_factors(kernel, 5, np.diag([1.0, 0, 0, 0, 0]))
    np.testing.assert_allclose(left @ right, kernel, atol=1e-10)


@pytest.fixture(scope="module")
def exact():
    model = TransformerStudent(40, 5, 2, 8, 2, 12, dtype="float64", sequence_length=9)
    generator = np.random.default_rng(3)
    model.set_weights([w + generator.normal(0, 0.4, w.shape) for w in model.get_weights()])
    return model


# Seven tokens, and two that are padding.
IDS = np.random.default_rng(1).integers(40, size=(12, 9)).astype("int32")
MASK = np.array([[1] * 7 + [0] * 2] * 12)


def weights(model):
    found = variables(model, describe(model))
    return {path: v.value.numpy().astype(float) for path, v in found.items()}


@pytest.mark.parametrize("name", LOW)
def test_products_are_the_nearest_on_what_the_layer_reads(exact, name):
    narrow = factorize(exact, {name: 3}, {"token_ids": IDS, "padding_mask": MASK})
    expected = [growth_oracles.dense_inputs(weights(exact), 2, 2, ids[:7]) for ids in IDS]
    pairs = [(exact.projection, narrow.projection, -1)] if name == "projection" else []
    if not pairs:
        parts = zip(exact.blocks, narrow.blocks, (0, 1), strict=True)
        pairs = [(getattr(a, KERNELS[name]), getattr(b, KERNELS[name]), n) for a, b, n in parts]
    for whole, product, number in pairs:
        inputs = np.concatenate([sentence[number][name] for sentence in expected])
        error = inputs @ (np.asarray(whole.kernel) - product.product())
        tail = np.linalg.svd(inputs @ np.asarray(whole.kernel))[1][3:]
        assert (error**2).sum() == pytest.approx((tail**2).sum(), rel=1e-3)
        np.testing.assert_array_equal(product.bias, whole.bias)


# ---- the function -------------------------------------------------------


@pytest.mark.parametrize("weighted", [True, False])
def test_full_rank_changes_no_embedding(trained, texts, batch, weighted):
    split = factorize(trained, FULL, texts if weighted else None)
    assert split.kernel_ranks == FULL and type(split.projection).__name__ == "FactorizedDense"
    assert apart(split, trained, batch) < 1e-6
    assert apart(merge(split), trained, batch) < 1e-6


def test_merging_keeps_the_function_of_a_narrow_student(trained, texts, batch):
    narrow = factorize(trained, {**LOW, "table": 7}, texts)
    assert apart(narrow, trained, batch) > 0.005
    merged = merge(narrow)
    assert merged.kernel_ranks is None and merged.table_rank is None
    assert [w.shape for w in merged.weights] == [w.shape for w in trained.weights]
    assert apart(merged, narrow, batch) < 1e-6
    left, right, _ = (w.astype(float) for w in narrow.blocks[1].feedforward_dense.get_weights())
    kernel = merged.blocks[1].feedforward_dense.kernel
    np.testing.assert_allclose(kernel, left @ right, atol=1e-7)
    assert np.linalg.matrix_rank(left @ right) == 4


@pytest.mark.slow
def test_a_narrow_student_can_be_narrowed_again(trained, batch):
    once = factorize(trained, {"qkv": 9, "table": 7})
    twice = factorize(once, {"qkv": 4, "feedforward": 5})
    assert (twice.kernel_ranks, twice.table_rank) == ({"qkv": 4, "feedforward": 5}, 7)
    # As in one go from the merged one: what went first is gone.
    direct = factorize(merge(once), {"qkv": 4, "feedforward": 5})
    assert apart(twice, direct, batch) < 1e-5


def test_sentences_choose_what_is_kept(trained, texts, batch):
    ranks = {**LOW, "table": 7}
    weighted, blind = (factorize(trained, ranks, probe) for probe in (texts, None))
    errors = [np.sum((m(batch) - trained(batch)) ** 2, axis=1).mean() for m in (weighted, blind)]
    assert errors[0] < 0.9 * errors[1]


def test_a_static_student_is_split_and_merged(trained_static, texts, batch):
    narrow = factorize(trained_static, {"table": 6}, texts)
    assert narrow.embedding_dim == 6 and narrow.projection.kernel.shape[0] == 6
    merged = merge(trained_static)
    assert merged.token_weight is None and merged.embedding_dim == 16
    assert apart(merged, trained_static, batch) < 1e-6 < apart(narrow, trained_static, batch)


def test_factorising_leaves_the_student(trained, texts, batch):
    before = trained.get_weights()
    factorize(trained, LOW, texts)
    for one, other in zip(before, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    plain = merge(trained)
    assert plain is not trained and apart(plain, trained, batch) == 0


# ---- a student like any other -------------------------------------------


def test_a_factorised_student_survives_saving(trained, texts, batch, tmp_path):
    narrow = factorize(trained, {**LOW, "table": 7}, texts)
    narrow.save(tmp_path / "narrow.keras")
    copy = kdkeras.load(tmp_path / "narrow.keras")
    assert (copy.kernel_ranks, copy.table_rank) == (LOW, 7)
    np.testing.assert_array_equal(copy.encode(texts[:4]), narrow.encode(texts[:4]))
    shallow = copy.truncated(1)
    assert shallow.kernel_ranks == LOW
    np.testing.assert_array_equal(shallow(batch), narrow.truncated(1)(batch))


def test_both_factors_are_trained(trained, batch):
    narrow = factorize(trained, {"feedforward": 4})
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(narrow(batch) - tf.roll(trained(batch), 1, 0)))
    layer = narrow.blocks[0].feedforward_dense
    kernels = [layer.contract.kernel.value, layer.expand.kernel.value]
    for gradient in tape.gradient(loss, kernels):
        assert np.abs(gradient).max() > 1e-4


def test_products_round_as_their_export_does(trained, batch):
    narrow = factorize(trained, LOW)
    exact = narrow(batch, training=False)
    narrow.fake_quantization = "int8"
    layer = narrow.blocks[0].qkv_dense
    assert layer.contract.fake_quantization is layer.expand.fake_quantization is not None
    assert 1e-4 < np.abs(narrow(batch, training=False) - exact).max() < 0.05
    narrow.fake_quantization = None
    np.testing.assert_array_equal(narrow(batch, training=False), exact)


def test_flops_of_products_are_what_tensorflow_counts(trained):
    narrow = factorize(trained, {**LOW, "table": 7})
    spec = tf.TensorSpec((1, 16), tf.int32)
    call = tf.function(lambda a, b: narrow({"token_ids": a, "padding_mask": b}))
    graph = call.get_concrete_function(spec, spec).graph
    total = sum(
        2 * node.inputs[0].shape[-1] * int(np.prod(node.outputs[0].shape))
        for node in graph.get_operations()
        if node.type in ("MatMul", "BatchMatMulV2")
    )
    assert forward_flops(narrow, 16) == total < forward_flops(trained, 16)


@pytest.mark.slow
def test_exported_products_embed_as_keras_does(trained, texts, held_out, tmp_path):
    from kdkeras.export import Gates, export_student, verify

    narrow = factorize(trained, {**LOW, "table": 7}, texts)
    export_student(
        narrow, tmp_path / "narrow", ["tflite_float32", "tflite_int8"], sequence_lengths=(16,)
    )
    pairs = {name: tuple(s[:20] for s in held_out[name]) for name in ("de", "ja", "ar")}
    report = verify(tmp_path / "narrow", narrow, pairs, Gates(), enforce=False)
    found = report["artifacts"]
    assert found["tflite_float32"]["cosine_min"] > 0.999999
    assert found["tflite_int8"]["cosine_mean"] > 0.99
    for language in pairs:
        assert found["tflite_float32"]["languages"][language]["cosine_min"] > 0.999999


# ---- growth -------------------------------------------------------------


@pytest.mark.parametrize(
    ("ranks", "products"), [({"table": 7}, "['table']"), ({"qkv": 4}, "['qkv']")]
)
def test_growth_refuses_products_until_they_are_merged(trained, texts, batch, ranks, products):
    narrow = factorize(trained, ranks)
    plan = GrowthPlan(sizes={"hidden_dim": 32})
    with pytest.raises(InputError) as error:
        grow(narrow, plan, probe=texts)
    assert_one_line(str(error.value), products, "merge(student)")
    grown = grow(merge(narrow), plan, probe=texts)
    assert grown.hidden_dim == 32 and apart(grown, narrow, batch) < 1e-5


def test_a_table_without_token_weights_grows(trained_static, texts, batch):
    narrow = factorize(trained_static, {"table": 6})
    for sizes in ({"embedding_dim": 10}, {"num_layers": 1, "hidden_dim": 8, "num_heads": 2}):
        grown = grow(narrow, GrowthPlan(sizes=sizes), probe=texts)
        assert grown.token_weight is not None
        assert apart(grown, narrow, batch) < 1e-5


# ---- what is refused ----------------------------------------------------

BAD = {
    "unknown": ({"value": 3}, ["TransformerStudent is factorised in ['qkv'", "'value'"]),
    "zero": ({"qkv": 0}, ["rank of 'qkv' must be from 1 to 16", "qkv=0"]),
    "too_large": ({"intermediate": 17}, ["from 1 to 16", "intermediate=17"]),
    "table": ({"table": 16}, ["`rank` must be from 1 to 15", "rank=16"]),
}


@pytest.mark.parametrize(("ranks", "parts"), BAD.values(), ids=BAD)
def test_ranks_that_cannot_be_are_refused(trained, ranks, parts):
    with pytest.raises(InputError) as error:
        factorize(trained, ranks)
    assert_one_line(str(error.value), *parts)


def test_other_models_and_kernels_are_refused(trained_static):
    import keras

    for refused in (lambda: merge(keras.Sequential()), lambda: factorize(keras.Sequential(), {})):
        with pytest.raises(InputError, match="Received: Sequential"):
            refused()
    with pytest.raises(InputError) as error:
        factorize(trained_static, {"projection": 3})
    assert_one_line(str(error.value), "StaticStudent is factorised in ['table']", "'projection'")


def test_what_reads_the_projection_asks_to_merge(trained):
    from kdkeras.compression import truncate
    from kdkeras.students import rotate_projection

    narrow = factorize(trained, {"projection": 4})
    for refused in (lambda: truncate(narrow, 8), lambda: rotate_projection(narrow, np.eye(384))):
        with pytest.raises(InputError) as error:
            refused()
        assert_one_line(str(error.value), "rank 4", "kdkeras.growth.merge(student)")


# ---- the certificate ------------------------------------------------------


def test_a_certificate_says_what_a_lower_rank_lost(trained, texts, batch):
    narrow = factorize(trained, {"feedforward": 4, "table": 8}, probe=texts)
    found = narrow.certificate
    steps = {(s.size, s.operator, s.before, s.after, s.keeps_function) for s in found.steps}
    assert steps == {
        ("feedforward", "Factorize", 16, 4, False),
        ("table", "Factorize", 16, 8, False),
    }
    assert not found.keeps_function and found.probe == "texts"
    assert found.maximum_error == pytest.approx(apart(trained, narrow, batch), rel=1e-3)
    assert (found.parameters_before, found.parameters_after) == (
        trained.count_params(),
        narrow.count_params(),
    )
    assert found.flops_after == forward_flops(narrow, found.flops_tokens)


def test_a_certificate_says_that_merging_kept_the_function(trained, texts):
    merged = merge(factorize(trained, {"qkv": 5, "projection": 9, "table": 8}, probe=texts))
    found = merged.certificate
    assert found.keeps_function and found.tolerance < 1.1e-6
    steps = {(s.size, s.before, s.after, s.keeps_function) for s in found.steps}
    assert steps == {("qkv", 5, 16, True), ("projection", 9, 16, True), ("table", 8, 16, True)}
    assert merge(trained).certificate.steps == ()


def test_a_full_rank_is_said_to_keep_the_function(trained, texts):
    found = factorize(trained, FULL, probe=texts).certificate
    assert found.keeps_function and found.steps == ()
