"""Fake quantization: rounding by hand, gradients, and layers."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts import assert_one_line

from kdkeras.errors import InputError
from kdkeras.layers import EmbeddingTable, QuantizableDense
from kdkeras.layers.fake_quantization import (
    quantized_activations,
    quantized_kernel,
    quantized_rows,
    read_scheme,
)


def random(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def test_int8_row_by_hand():
    # The scale is 127 / 127 = 1: values are rounded to integers.
    row = np.array([[127.0, -3.4, 0.6, 0.0], [0.0, 0.0, 0.0, 0.0]], np.float32)
    expected = [[127.0, -3.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]]
    np.testing.assert_array_equal(quantized_rows(row, "int8"), expected)


def test_each_int4_block_has_its_own_scale():
    # 14 / 7 = 2 in the first block, 0.7 / 7 = 0.1 in the second, of which
    # bfloat16 keeps 8 bits: 0.10009765625.
    row = np.zeros((1, 64), np.float32)
    row[0, :3] = [14.0, 5.2, -0.9]
    row[0, 32:35] = [-0.7, 0.26, 0.04]
    rounded = quantized_rows(row, "int4").numpy()
    np.testing.assert_array_equal(rounded[0, :3], [14.0, 6.0, -0.0])
    np.testing.assert_allclose(rounded[0, 32:35], np.array([-7, 3, 0]) * 0.10009765625)
    assert not rounded[0, 3:32].any() and not rounded[0, 35:].any()


def test_int4_row_has_one_scale_if_blocks_do_not_divide_it():
    row = np.array([[7.0, 3.4, -0.6]], np.float32)
    np.testing.assert_array_equal(quantized_rows(row, "int4"), [[7.0, 3.0, -1.0]])


def test_kernel_has_one_scale_per_unit():
    kernel = np.array([[127.0, 0.127], [0.6, 0.0006]], np.float32)
    expected = [[127.0, 0.127], [1.0, 0.001]]
    np.testing.assert_allclose(quantized_kernel(kernel), expected, rtol=1e-6)


def test_activations_are_rounded_to_256_values_per_row():
    # The step is (205 + 50) / 255 = 1: 0.4 is rounded to 0.
    row = np.array([[205.0, -50.0, 0.4, 3.0], [2.0, 1.0, 0.0, 2.0]], np.float32)
    rounded = quantized_activations(row).numpy()
    np.testing.assert_allclose(rounded[0], [205.0, -50.0, 0.0, 3.0], atol=1e-4)
    # Zero is always represented exactly.
    np.testing.assert_allclose(rounded[1], [2.0, 1.0, 0.0, 2.0], atol=2 / 255)
    assert rounded[1, 2] == 0


@pytest.mark.parametrize(
    "apply",
    [
        lambda x: quantized_rows(x, "int8"),
        lambda x: quantized_rows(x, "int4"),
        quantized_kernel,
        quantized_activations,
    ],
    ids=["int8", "int4", "kernel", "activations"],
)
def test_gradient_is_that_of_the_identity(apply):
    values, upstream = tf.constant(random(3, 32)), random(3, 32)
    with tf.GradientTape() as tape:
        tape.watch(values)
        rounded = apply(values)
        total = tf.reduce_sum(rounded * upstream)
    assert np.abs(rounded - values).max() > 1e-4
    np.testing.assert_array_equal(tape.gradient(total, values), upstream)


def test_dense_without_fake_quantization_equals_keras():
    layer, reference = (
        QuantizableDense(5, activation="gelu"),
        keras.layers.Dense(5, activation="gelu"),
    )
    layer.build((None, 32))
    reference.build((None, 32))
    reference.set_weights(layer.get_weights())
    np.testing.assert_array_equal(layer(random(3, 32)), reference(random(3, 32)))


def test_dense_with_fake_quantization_rounds_kernel_and_inputs():
    layer = QuantizableDense(5, activation="gelu", bias_initializer="ones")
    inputs = random(2, 3, 32)
    layer.build(inputs.shape)
    layer.fake_quantization = "int8"
    kernel, bias = layer.get_weights()
    product = quantized_activations(inputs).numpy() @ quantized_kernel(kernel).numpy()
    np.testing.assert_allclose(layer(inputs), keras.activations.gelu(product + bias), atol=1e-5)
    assert np.abs(product - inputs @ kernel).max() > 1e-4


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_table_with_fake_quantization_rounds_the_rows(dtype):
    table = EmbeddingTable(5, 32, "normal", dtype=dtype)
    ids = np.array([[1, 4, 4, 0]])
    table(ids)
    table.fake_quantization = "int4"
    expected = quantized_rows(table.table.numpy()[ids], "int4")
    tolerance = 1e-7 if dtype == "float32" else 1e-3
    np.testing.assert_allclose(tf.cast(table(ids), tf.float32), expected, atol=tolerance)


def test_unknown_scheme_is_refused():
    with pytest.raises(InputError, match=r"'int8', 'int4'\].*Received: 'int2'") as caught:
        read_scheme("int2")
    assert_one_line(str(caught.value))
