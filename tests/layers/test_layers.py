"""Layers compared with those of Keras, padding, and saving."""

from __future__ import annotations

import keras
import keras_hub
import numpy as np
import pytest
import tensorflow as tf
from contracts import assert_config_round_trip, assert_one_line

from kdkeras.errors import InputError
from kdkeras.layers import (
    EmbeddingTable,
    FactorizedDense,
    FactorizedEmbedding,
    MeanPooling,
    TransformerBlock,
    UnitNorm,
)
from kdkeras.layers.masked_block import MaskedTransformerBlock
from kdkeras.layers.masks import MaskedNorm, MaskLevel

IDS = np.array([[1, 4, 4, 0], [2, 2, 0, 0]])
MASK = np.array([[1, 1, 1, 0], [1, 1, 0, 0]])


def random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def test_embedding_table_equals_keras_embedding():
    table, reference = EmbeddingTable(5, 3), keras.layers.Embedding(5, 3)
    table.build((None, None))
    reference.build((None, None))
    reference.set_weights(table.get_weights())
    with tf.GradientTape(persistent=True) as tape:
        outputs = [layer(IDS) for layer in (table, reference)]
        sums = [tf.reduce_sum(tf.sin(output)) for output in outputs]
    np.testing.assert_array_equal(*outputs)
    gradients = [
        tf.convert_to_tensor(tape.gradient(total, layer.trainable_weights[0].value))
        for total, layer in zip(sums, (table, reference), strict=True)
    ]
    np.testing.assert_allclose(*gradients, atol=1e-6)


@pytest.mark.parametrize("dtype", ["mixed_bfloat16", "mixed_float16"])
def test_embedding_table_in_mixed_precision_keeps_float32_rows(dtype):
    table = EmbeddingTable(5, 3, dtype=dtype)
    vectors = table(IDS)
    assert table.table.dtype == "float32" and vectors.dtype == dtype.removeprefix("mixed_")
    expected = tf.cast(table.table.numpy()[IDS], vectors.dtype)
    np.testing.assert_array_equal(tf.cast(vectors, "float32"), tf.cast(expected, "float32"))


def test_embedding_table_uses_its_initializer():
    table = EmbeddingTable(5, 3, keras.initializers.Constant(2.0))
    np.testing.assert_array_equal(table(IDS), np.full((2, 4, 3), 2.0))


def test_factorized_embedding_equals_the_product_of_its_matrices():
    layer = FactorizedEmbedding(5, 3, 2)
    vectors = layer(IDS)
    table, kernel = layer.get_weights()
    assert table.shape == (5, 2) and kernel.shape == (2, 3) and layer.table.shape == (5, 2)
    np.testing.assert_allclose(vectors, (table @ kernel)[IDS], atol=1e-6)
    # Vectors of rank 2 are reproduced.
    plane = random(5, 2) @ random(2, 3)
    layer.assign(plane)
    np.testing.assert_allclose(layer(IDS), plane[IDS], atol=1e-5)


def test_mean_pooling_by_hand():
    # (1 + 3) / 2 = 2; weighted (1 * 2 + 3 * 4) / 2 = 7, divided by the number of tokens.
    vectors, mask = np.array([[[1.0], [3.0], [9.0]]]), np.array([[1, 1, 0]])
    weights = np.array([[[2.0], [4.0], [5.0]]])
    assert float(MeanPooling()(vectors, mask)[0, 0]) == pytest.approx(2)
    assert float(MeanPooling()(vectors, mask, weights=weights)[0, 0]) == pytest.approx(7)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_mean_pooling_without_tokens_is_zero(dtype):
    mean = MeanPooling(dtype=dtype)(random(1, 3, 2), np.zeros((1, 3), "int32"))
    np.testing.assert_array_equal(tf.cast(mean, "float32"), np.zeros((1, 2)))


def test_unit_norm_scales_to_length_one_and_keeps_zero():
    vectors = np.array([[3.0, 4.0], [0.0, 0.0]])
    np.testing.assert_allclose(UnitNorm()(vectors), [[0.6, 0.8], [0, 0]], atol=1e-6)


def test_unit_norm_is_float32_under_any_policy():
    assert UnitNorm(dtype="mixed_float16")(random(2, 3).astype("float16")).dtype == tf.float32


def copied_encoder(block):
    """Returns a keras_hub encoder layer with the weights of a block."""
    encoder = keras_hub.layers.TransformerEncoder(
        block.intermediate_dim,
        block.num_heads,
        dropout=0.0,
        activation="gelu",
        layer_norm_epsilon=block.layer_norm_epsilon,
    )
    encoder.build((None, None, block.hidden_dim))
    attention, heads = encoder._self_attention_layer, (block.num_heads, -1)
    kernel, bias = block.qkv_dense.get_weights()
    parts = zip(np.split(kernel, 3, 1), np.split(bias, 3), strict=True)
    targets = (attention._query_dense, attention._key_dense, attention._value_dense)
    for target, (part, shift) in zip(targets, parts, strict=True):
        target.set_weights([part.reshape(block.hidden_dim, *heads), shift.reshape(heads)])
    kernel, bias = block.output_dense.get_weights()
    attention._output_dense.set_weights([kernel.reshape(*heads, block.hidden_dim), bias])
    for ours, theirs in (
        (block.attention_norm, encoder._self_attention_layer_norm),
        (block.intermediate_dense, encoder._feedforward_intermediate_dense),
        (block.feedforward_dense, encoder._feedforward_output_dense),
        (block.output_norm, encoder._feedforward_layer_norm),
    ):
        theirs.set_weights(ours.get_weights())
    return encoder


@pytest.fixture
def block():
    block = TransformerBlock(8, 2, 16)
    block.build((None, None, 8))
    generator = np.random.default_rng(1)
    block.set_weights([w + generator.normal(0, 0.3, w.shape) for w in block.get_weights()])
    return block


def test_transformer_block_equals_keras_hub(block):
    hidden = random(2, 4, 8)
    ours, theirs = block(hidden, MASK), copied_encoder(block)(hidden, padding_mask=MASK)
    np.testing.assert_allclose(ours[MASK == 1], theirs[MASK == 1], atol=1e-5)


def test_padding_does_not_change_a_block(block):
    hidden = random(2, 4, 8)
    other = np.where(MASK[..., None] == 1, hidden, 50.0)
    np.testing.assert_array_equal(block(hidden, MASK)[MASK == 1], block(other, MASK)[MASK == 1])


def test_a_block_without_tokens_is_finite(block):
    assert np.isfinite(block(random(1, 3, 8), np.zeros((1, 3), "int32"))).all()


def test_dropout_is_applied_in_training_only(block):
    hidden = random(2, 4, 8)
    still = block(hidden, MASK, training=False)
    np.testing.assert_array_equal(still, block(hidden, MASK, training=False))
    assert np.abs(block(hidden, MASK, training=True) - still).max() > 0.01


def test_a_block_in_float16_with_padding_is_near_float32(block):
    half = TransformerBlock(8, 2, 16, dtype="mixed_float16")
    half.build((None, None, 8))
    half.set_weights(block.get_weights())
    output = tf.cast(half(random(2, 4, 8), MASK), "float32")
    np.testing.assert_allclose(output, block(random(2, 4, 8), MASK), atol=0.05)


def test_num_heads_must_divide_hidden_dim():
    with pytest.raises(InputError) as error:
        TransformerBlock(8, 3, 16)
    assert_one_line(str(error.value), "num_heads=3", "hidden_dim=8", "divisor of 8")


def test_block_configuration_round_trips():
    sizes = {"hidden_dim": 6, "num_heads": 3, "intermediate_dim": 5}
    arguments = {**sizes, "dropout": 0.3, "layer_norm_epsilon": 1e-5, "kernel_ranks": {"qkv": 2}}
    assert_config_round_trip(TransformerBlock, arguments)


def test_table_configuration_round_trips():
    table = EmbeddingTable(9, 4, keras.initializers.Constant(0.5), name="rows")
    copy = EmbeddingTable.from_config(table.get_config())
    assert (copy.vocabulary_size, copy.dim, copy.name) == (9, 4, "rows")
    np.testing.assert_array_equal(copy(IDS), np.full((2, 4, 4), 0.5))


def test_factorized_embedding_round_trips(tmp_path):
    made = FactorizedEmbedding(9, 4, 3, keras.initializers.Constant(0.5), name="rows")
    copy = FactorizedEmbedding.from_config(made.get_config())
    assert (copy.vocabulary_size, copy.dim, copy.rank, copy.name) == (9, 4, 3, "rows")
    copy(IDS)
    np.testing.assert_array_equal(copy.table, np.full((9, 3), 0.5))
    tokens = keras.Input((None,), dtype="int32")
    model = keras.Model(tokens, made(tokens))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(IDS), model(IDS))


def test_factorized_dense_equals_the_product_of_its_matrices():
    layer = FactorizedDense(5, 2, activation="gelu")
    inputs = random(3, 4, 6)
    outputs = layer(inputs)
    left, right, bias = layer.get_weights()
    assert left.shape == (6, 2) and right.shape == (2, 5) and bias.shape == (5,)
    layer.set_weights([left, right, random(5)])
    expected = keras.activations.gelu(inputs @ (left @ right) + random(5))
    np.testing.assert_allclose(layer(inputs), expected, atol=1e-6)
    np.testing.assert_allclose(layer.product(), left.astype(float) @ right, atol=1e-12)
    # The initializer draws different numbers for both matrices.
    assert not np.allclose(left.ravel()[:4], right.ravel()[:4]) and outputs.shape == (3, 4, 5)


def test_factorized_dense_round_trips(tmp_path):
    start = keras.initializers.Constant(0.5)
    made = FactorizedDense(5, 2, activation="gelu", kernel_initializer=start, name="narrow")
    copy = FactorizedDense.from_config(made.get_config())
    assert (copy.units, copy.rank, copy.activation, copy.name) == (5, 2, made.activation, "narrow")
    np.testing.assert_allclose(copy(np.ones((1, 6))), made(np.ones((1, 6))))
    inputs = keras.Input((6,))
    model = keras.Model(inputs, made(inputs))
    made.assign(random(6, 5), random(5))
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(again(random(3, 6)), model(random(3, 6)))


def test_a_masked_block_can_be_saved(tmp_path):
    sizes = {"hidden_dim": 4, "num_heads": 1, "head_size": 3, "intermediate_dim": 5}
    made = MaskedTransformerBlock(6, 2, 7, level=MaskLevel(), masked=sizes, whole=True)
    inputs = [keras.Input((None, 6)), keras.Input((None,), dtype="int32")]
    model = keras.Model(inputs, made(*inputs))
    model.set_weights([random(*w.shape) for w in model.get_weights()])
    made.level.level.assign(0.5)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    block = copy.get_layer(made.name)
    assert (block.masked, block.whole, float(block.level.level)) == (sizes, True, 0.5)
    data = [random(2, 4, 6), MASK]
    np.testing.assert_array_equal(copy(data), model(data))
    assert np.abs(model(data) - data[0]).max() > 1e-3


def test_masked_norm_at_level_one_equals_keras_and_round_trips():
    norm, reference = MaskedNorm(MaskLevel(), 2, epsilon=1e-5), keras.layers.LayerNormalization()
    for layer in (norm, reference):
        layer.build((None, 6))
    reference.epsilon = 1e-5
    reference.set_weights([random(6), random(6) + 1])
    norm.gamma.assign(reference.gamma)
    norm.beta.assign(reference.beta)
    norm.level.level.assign(1.0)
    np.testing.assert_allclose(norm(random(3, 6)), reference(random(3, 6)), atol=1e-6)
    copy = MaskedNorm.from_config(norm.get_config())
    assert (copy.old_size, copy.epsilon, type(copy.level)) == (2, 1e-5, MaskLevel)


@pytest.mark.parametrize("dtype", ["mixed_float16", "mixed_bfloat16"])
def test_a_masked_block_in_half_precision_is_near_float32(dtype):
    masked = {"hidden_dim": 4, "num_heads": 1, "head_size": 3, "intermediate_dim": 5}
    half, full = (
        MaskedTransformerBlock(6, 2, 7, level=MaskLevel(), masked=masked, whole=True, dtype=d)
        for d in (dtype, "float32")
    )
    for block in (half, full):
        block.build((None, None, 6))
    full.level.level.assign(0.5)
    half.set_weights(full.get_weights())
    outputs = half(random(2, 4, 6), MASK)
    assert outputs.dtype == dtype.removeprefix("mixed_")
    expected = full(random(2, 4, 6), MASK)
    np.testing.assert_allclose(tf.cast(outputs, "float32"), expected, atol=0.05)


def test_layers_work_in_a_functional_model(tmp_path):
    inputs = [keras.Input((None,), dtype="int32", name=n) for n in ("token_ids", "padding_mask")]
    hidden = TransformerBlock(4, 2, 8)(EmbeddingTable(5, 4)(inputs[0]), inputs[1])
    model = keras.Model(inputs, UnitNorm()(MeanPooling()(hidden, inputs[1])))
    assert model.output_shape == (None, 4)
    model.save(tmp_path / "model.keras")
    copy = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(copy([IDS, MASK]), model([IDS, MASK]))
