"""TokenCrossEntropy, the task loss of token labels."""

from __future__ import annotations

from math import log

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from contracts import assert_config_round_trip, assert_one_line, value_and_gradient

from kdkeras.errors import InputError
from kdkeras.losses import TokenCrossEntropy

LABEL = np.array([[1, 4, 0], [2, -1, -1], [-1, -1, -1], [-1, 3, 3]])


def logits(seed=0):
    return np.random.default_rng(seed).normal(size=(4, 3, 5)).astype("float32")


def oracle(label, student, ignore_class=-1):
    """One value per example, token by token."""
    log_p = oracles.log_softmax(student)
    losses = []
    for row, tokens in zip(log_p, label, strict=True):
        real = [-row[t, token] for t, token in enumerate(tokens) if token != ignore_class]
        losses.append(np.mean(real) if real else 0.0)
    return np.array(losses)


def test_token_cross_entropy_by_hand():
    # ln 4 - ln 3 for a label of 3/4, ln 4 for one of 1/4: mean of both; the first alone. Mean.
    student = np.log([[[3.0, 1.0], [3.0, 1.0]]] * 2)
    a, b = log(4 / 3), log(4)
    value = TokenCrossEntropy()(np.array([[0, 1], [0, -1]]), student)
    np.testing.assert_allclose(value, ((a + b) / 2 + a) / 2, rtol=1e-6)


def test_equals_oracle_for_each_example_and_their_mean():
    loss = TokenCrossEntropy()
    np.testing.assert_allclose(loss.call(LABEL, logits()), oracle(LABEL, logits()), rtol=1e-5)
    np.testing.assert_allclose(loss(LABEL, logits()), oracle(LABEL, logits()).mean(), rtol=1e-5)


def test_sample_weight_multiplies_an_example():
    weight = np.array([1.0, 0.0, 2.0, 3.0])
    value = TokenCrossEntropy()(LABEL, logits(), sample_weight=weight)
    np.testing.assert_allclose(value, (oracle(LABEL, logits()) * weight).mean(), rtol=1e-5)


def test_padding_label_can_be_chosen():
    label = np.where(LABEL < 0, 4, LABEL)
    values = TokenCrossEntropy(ignore_class=4).call(label, logits())
    np.testing.assert_allclose(values, oracle(label, logits(), 4), rtol=1e-5)


def test_padding_gets_no_gradient_and_a_gradient_step_lowers_the_loss():
    values, slope = value_and_gradient(TokenCrossEntropy().call, LABEL, logits())
    np.testing.assert_array_equal(slope[LABEL < 0], 0)
    assert oracle(LABEL, logits() - 0.1 * slope).sum() < values.sum() - 1e-3


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_huge_half_precision_logits_stay_finite(dtype):
    student = tf.cast(np.sign(logits()) * 1e4, dtype)
    value = TokenCrossEntropy()(LABEL, student)
    expected = oracle(LABEL, tf.cast(student, "float64").numpy()).mean()
    assert value.dtype == tf.float32
    np.testing.assert_allclose(value, expected, rtol=1e-3)


def test_xla_and_unknown_shapes_give_equal_numbers():
    specs = [tf.TensorSpec([None, None], tf.int32), tf.TensorSpec([None, None, 5], tf.float32)]
    loss, label = TokenCrossEntropy(), tf.constant(LABEL, tf.int32)
    for traced in (
        tf.function(lambda y, z: loss(y, z), jit_compile=True),
        tf.function(lambda y, z: loss(y, z), input_signature=specs),
    ):
        np.testing.assert_allclose(traced(label, logits()), loss(label, logits()), rtol=1e-6)


def test_mask_of_keras_is_not_applied_to_examples():
    ids = np.array([[1, 2, 3], [1, 0, 0], [1, 2, 0], [2, 2, 2]])
    table = keras.layers.Embedding(5, 5, mask_zero=True)
    value = TokenCrossEntropy()(LABEL, table(ids))
    np.testing.assert_allclose(value, oracle(LABEL, table.get_weights()[0][ids]).mean(), rtol=1e-5)


def test_token_cross_entropy_survives_serialization():
    assert_config_round_trip(TokenCrossEntropy, {"ignore_class": 0})


@pytest.mark.parametrize(
    ("label", "student", "parts"),
    [
        (LABEL[:, 0], logits(), ("labels (4,)", "logits (4, 3, 5)")),
        (LABEL, logits()[:, 0], ("logits (4, 5)",)),
        (LABEL[:, :2], logits(), ("labels (4, 2)", "Pad labels with -1")),
    ],
)
def test_labels_that_do_not_match_the_tokens_are_refused(label, student, parts):
    with pytest.raises(InputError) as error:
        TokenCrossEntropy()(label, student)
    assert_one_line(str(error.value), "one label per token", *parts)
