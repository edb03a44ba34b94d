"""`factorize` stores kernels and tables as products, and `merge` multiplies them again."""

from __future__ import annotations

import keras
import numpy as np
import oracles_growth
import pytest
import tensorflow as tf
from contracts import assert_one_line

import kdkeras
from kdkeras.compression import factorize, merge, truncate
from kdkeras.errors import InputError
from kdkeras.growth.axes import model_values
from kdkeras.layers.factorized_embedding import low_rank_factors
from kdkeras.layers.transformer_block import KERNELS
from kdkeras.students import TransformerStudent, forward_flops, rotate_projection

# The fixture `transformer` has width 16, feed-forward width 24 and output width 12.
FULL = {"qkv": 16, "attention_output": 16, "intermediate": 16, "feedforward": 16, "projection": 12}
LOW = {"qkv": 5, "attention_output": 3, "intermediate": 6, "feedforward": 4, "projection": 9}


def difference(one, other, batch):
    """Largest difference of the embeddings of real sentences."""
    return np.abs(one(batch, training=False) - other(batch, training=False)).max()


@pytest.fixture(scope="module")
def batch(wordpiece, texts):
    return wordpiece.encode(texts[::2], 24)


@pytest.fixture(scope="module")
def narrow(transformer, texts):
    """The student with every kernel and the table factorized for real sentences."""
    return factorize(transformer, {**LOW, "table": 7}, texts)


@pytest.fixture(scope="module")
def merged(narrow):
    return merge(narrow)


# ---- the factors ----


def test_input_variances_decide_which_direction_is_kept():
    # Of W = diag(2, 3) the second direction is larger. With inputs of variance 4 and 1,
    # x W has variance 4 * 4 = 16 and 9, and the first is.
    kernel = np.diag([2.0, 3.0])
    left, right = low_rank_factors(kernel, 1)
    np.testing.assert_allclose(left @ right, np.diag([0.0, 3.0]), atol=1e-12)
    left, right = low_rank_factors(kernel, 1, np.diag([4.0, 1.0]))
    np.testing.assert_allclose(left @ right, np.diag([2.0, 0.0]), atol=1e-12)


def test_factors_minimize_the_error_on_the_inputs():
    generator = np.random.default_rng(0)
    kernel = generator.normal(size=(6, 8))
    inputs = generator.normal(size=(90, 6)) * [9, 5, 3, 1, 0.5, 0.1] + 0.3
    outputs = inputs @ kernel
    for rank in (1, 3, 5):
        left, right = low_rank_factors(kernel, rank, inputs.T @ inputs)
        error = ((outputs - inputs @ left @ right) ** 2).sum()
        # The truncated decomposition of the outputs is the lower bound.
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


# Seven tokens and two of padding.
IDS = np.random.default_rng(1).integers(40, size=(12, 9)).astype("int32")
MASK = np.array([[1] * 7 + [0] * 2] * 12)


@pytest.fixture(scope="module")
def exact_narrow(exact):
    """Every kernel with rank 3, fitted to its inputs in the old model."""
    probe = {"token_ids": IDS, "padding_mask": MASK}
    return factorize(exact, dict.fromkeys(LOW, 3), probe)


@pytest.fixture(scope="module")
def exact_inputs(exact):
    """The inputs of each dense layer per sentence, without padding, by the oracle."""
    found = model_values(exact)
    return [oracles_growth.dense_inputs(found, 2, 2, ids[:7]) for ids in IDS]


@pytest.mark.parametrize("name", LOW)
def test_products_minimize_the_error_on_what_the_layer_reads(
    exact, exact_narrow, exact_inputs, name
):
    if name == "projection":
        layers = [(exact.projection, exact_narrow.projection, -1)]
    else:
        blocks = zip(exact.blocks, exact_narrow.blocks, (0, 1), strict=True)
        layers = [(getattr(a, KERNELS[name]), getattr(b, KERNELS[name]), n) for a, b, n in blocks]
    for whole, product, number in layers:
        inputs = np.concatenate([sentence[number][name] for sentence in exact_inputs])
        error = inputs @ (np.asarray(whole.kernel) - product.product())
        tail = np.linalg.svd(inputs @ np.asarray(whole.kernel))[1][3:]
        assert (error**2).sum() == pytest.approx((tail**2).sum(), rel=1e-3)
        np.testing.assert_array_equal(product.bias, whole.bias)


# ---- the function ----


@pytest.mark.parametrize("weighted", [True, False])
def test_full_rank_preserves_the_function(transformer, texts, batch, weighted):
    split = factorize(transformer, FULL, texts if weighted else None)
    assert split.kernel_ranks == FULL and type(split.projection).__name__ == "FactorizedDense"
    assert difference(split, transformer, batch) < 1e-6
    certificate = split.certificate
    assert certificate.keeps_function and certificate.steps == ()
    assert certificate.probe == ("texts" if weighted else "random token ids")


def test_merging_preserves_the_function_of_a_factorized_student(transformer, narrow, merged, batch):
    assert difference(narrow, transformer, batch) > 0.005
    assert merged.kernel_ranks is None and merged.table_rank is None
    assert [w.shape for w in merged.weights] == [w.shape for w in transformer.weights]
    assert difference(merged, narrow, batch) < 1e-6
    left, right, _ = (w.astype(float) for w in narrow.blocks[1].feedforward_dense.get_weights())
    kernel = merged.blocks[1].feedforward_dense.kernel
    np.testing.assert_allclose(kernel, left @ right, atol=1e-7)
    assert np.linalg.matrix_rank(left @ right) == 4


@pytest.mark.slow
def test_a_factorized_student_can_be_factorized_again(transformer, batch):
    once = factorize(transformer, {"qkv": 9, "table": 7})
    twice = factorize(once, {"qkv": 4, "feedforward": 5})
    assert (twice.kernel_ranks, twice.table_rank) == ({"qkv": 4, "feedforward": 5}, 7)
    direct = factorize(merge(once), {"qkv": 4, "feedforward": 5})
    assert difference(twice, direct, batch) < 1e-5


def test_a_probe_of_texts_lowers_the_error_on_them(transformer, narrow, batch):
    blind = factorize(transformer, {**LOW, "table": 7})
    expected = transformer(batch)
    errors = [np.sum((m(batch) - expected) ** 2, axis=1).mean() for m in (narrow, blind)]
    assert errors[0] < 0.9 * errors[1]


def test_a_static_student_is_factorized_and_merged(fitted, texts, vocabulary):
    batch = vocabulary.encode(texts, 24)
    split = factorize(fitted, {"table": 24}, texts)
    assert split.embedding_dim == 24 and split.projection.kernel.shape[0] == 24
    whole = merge(fitted)
    assert whole.token_weight is None and whole.embedding_dim == 64
    assert difference(whole, fitted, batch) < 1e-6 < difference(split, fitted, batch)


def test_the_student_is_not_modified(transformer, texts, batch):
    before = transformer.get_weights()
    factorize(transformer, LOW, texts)
    plain = merge(transformer)
    for one, other in zip(before, transformer.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert plain is not transformer and difference(plain, transformer, batch) == 0
    assert plain.certificate.steps == ()


# ---- a student like any other ----


def test_a_factorized_student_is_saved_and_truncated(narrow, texts, batch, tmp_path):
    narrow.save(tmp_path / "narrow.keras")
    copy = kdkeras.load(tmp_path / "narrow.keras")
    assert (copy.kernel_ranks, copy.table_rank) == (LOW, 7)
    np.testing.assert_array_equal(copy.encode(texts[:4]), narrow.encode(texts[:4]))
    shallow = copy.truncated(1)
    assert shallow.kernel_ranks == LOW
    np.testing.assert_array_equal(shallow(batch), narrow.truncated(1)(batch))


def test_both_factors_have_gradients(transformer, narrow, batch):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(narrow(batch) - tf.roll(transformer(batch), 1, 0)))
    layer = narrow.blocks[0].feedforward_dense
    kernels = [layer.contract.kernel.value, layer.expand.kernel.value]
    for gradient in tape.gradient(loss, kernels):
        assert np.abs(gradient).max() > 1e-4


def test_products_are_fake_quantized_as_their_export_is(transformer, batch):
    narrow = factorize(transformer, LOW)
    exact = narrow(batch, training=False)
    narrow.fake_quantization = "int8"
    layer = narrow.blocks[0].qkv_dense
    assert layer.contract.fake_quantization is layer.expand.fake_quantization is not None
    assert 1e-4 < np.abs(narrow(batch, training=False) - exact).max() < 0.05
    narrow.fake_quantization = None
    np.testing.assert_array_equal(narrow(batch, training=False), exact)


def test_flops_of_products_are_those_that_tensorflow_counts(transformer, narrow):
    spec = tf.TensorSpec((1, 16), tf.int32)
    call = tf.function(lambda a, b: narrow({"token_ids": a, "padding_mask": b}))
    graph = call.get_concrete_function(spec, spec).graph
    total = sum(
        2 * node.inputs[0].shape[-1] * int(np.prod(node.outputs[0].shape))
        for node in graph.get_operations()
        if node.type in ("MatMul", "BatchMatMulV2")
    )
    assert forward_flops(narrow, 16) == total < forward_flops(transformer, 16)


@pytest.mark.slow
def test_exported_products_embed_as_keras_does(narrow, held_out, tmp_path):
    from kdkeras.export import Gates, export_student, verify

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


# ---- the certificate ----


def test_the_certificate_describes_the_loss_of_lower_ranks(transformer, narrow, texts):
    found = narrow.certificate
    steps = {s.size: (s.operator, s.before, s.after, s.keeps_function) for s in found.steps}
    assert steps == {
        "qkv": ("Factorize", 16, 5, False),
        "attention_output": ("Factorize", 16, 3, False),
        "intermediate": ("Factorize", 16, 6, False),
        "feedforward": ("Factorize", 16, 4, False),
        "projection": ("Factorize", 12, 9, False),
        "table": ("Factorize", 16, 7, False),
    }
    assert not found.keeps_function and found.probe == "texts"
    everything = transformer.vocabulary.encode(texts, transformer.sequence_length)
    assert found.maximum_error == pytest.approx(
        difference(transformer, narrow, everything), rel=1e-3
    )
    assert found.parameters_before == transformer.count_params()
    assert found.parameters_after == narrow.count_params()
    assert found.flops_after == forward_flops(narrow, found.flops_tokens)


def test_the_certificate_says_that_merging_preserved_the_function(merged):
    found = merged.certificate
    assert found.keeps_function and found.tolerance < 1.1e-6
    steps = {(s.size, s.before, s.after, s.keeps_function) for s in found.steps}
    assert {("qkv", 5, 16, True), ("projection", 9, 12, True), ("table", 7, 16, True)} <= steps


# ---- errors ----

BAD = {
    "unknown": ({"value": 3}, ["`ranks` for a TransformerStudent are ['qkv'", "'value'"]),
    "zero": ({"qkv": 0}, ["rank of 'qkv' must be from 1 to 16", "qkv=0"]),
    "too_large": ({"intermediate": 17}, ["from 1 to 16", "intermediate=17"]),
    "table": ({"table": 16}, ["`rank` must be from 1 to 15", "rank=16"]),
}


@pytest.mark.parametrize(("ranks", "parts"), BAD.values(), ids=BAD)
def test_impossible_ranks_are_refused(transformer, ranks, parts):
    with pytest.raises(InputError) as error:
        factorize(transformer, ranks)
    assert_one_line(str(error.value), *parts)


def test_other_models_and_kernels_are_refused(fitted):
    for refused in (lambda: merge(keras.Sequential()), lambda: factorize(keras.Sequential(), {})):
        with pytest.raises(InputError, match="Received: Sequential"):
            refused()
    with pytest.raises(InputError) as error:
        factorize(fitted, {"projection": 3})
    assert_one_line(str(error.value), "`ranks` for a StaticStudent are ['table']", "'projection'")


def test_operations_on_the_projection_require_a_merged_one(narrow):
    for refused in (lambda: truncate(narrow, 8), lambda: rotate_projection(narrow, np.eye(12))):
        with pytest.raises(InputError) as error:
            refused()
        assert_one_line(str(error.value), "rank 9", "kdkeras.compression.merge(student)")
