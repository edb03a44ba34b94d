"""Small students that were trained for a few steps on the sample, and real sentences."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

from kdkeras.students import StaticStudent, TransformerStudent

LENGTH = 24


@pytest.fixture(scope="session")
def lessons(sample_set, vocabulary):
    """Token ids and the teacher's real vectors."""
    pairs = [pair for pair, _ in zip(sample_set.records(), range(256), strict=False)]
    batch = vocabulary.encode([group.source for group, _ in pairs], LENGTH)
    return batch, np.stack([vector for _, vector in pairs])


def train(student, lessons, steps, rate=0.01):
    """Some steps of Adam toward the teacher; returns the optimizer."""
    optimizer = keras.optimizers.Adam(rate)
    batch, targets = lessons

    @tf.function
    def step(inputs, target):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(student(inputs, training=False) - target))
        weights = student.trainable_variables
        optimizer.apply(
            [tf.convert_to_tensor(g) for g in tape.gradient(loss, weights)], weights
        )

    optimizer.build(student.trainable_variables)
    for number in range(steps):
        rows = slice(32 * (number % 8), 32 * (number % 8 + 1))
        step({k: tf.constant(v[rows]) for k, v in batch.items()}, tf.constant(targets[rows]))
    return optimizer


def _roughen(student):
    """Norms and biases start at 1 and 0, which would hide what becomes of them."""
    generator = np.random.default_rng(5)
    for weight in student.trainable_variables:
        if len(weight.shape) == 1 or weight.shape[1] == 1:
            weight.assign_add(generator.normal(0, 0.1, weight.shape).astype("float32"))
    return student


@pytest.fixture(scope="session")
def trained(vocabulary, lessons):
    keras.utils.set_random_seed(0)
    student = TransformerStudent(
        vocabulary.size,
        lessons[1].shape[1],
        num_layers=2,
        hidden_dim=16,
        num_heads=2,
        intermediate_dim=24,
        sequence_length=LENGTH,
        vocabulary=vocabulary,
    )
    train(_roughen(student), lessons, 12)
    return student


@pytest.fixture(scope="session")
def trained_static(vocabulary, lessons):
    keras.utils.set_random_seed(0)
    student = StaticStudent(
        vocabulary.size,
        lessons[1].shape[1],
        embedding_dim=16,
        sequence_length=LENGTH,
        vocabulary=vocabulary,
    )
    train(_roughen(student), lessons, 12)
    return student


@pytest.fixture(scope="session")
def texts(held_out):
    """Real sentences of many lengths and scripts."""
    return [text for language in ("de", "ja", "ar", "hi") for text in held_out[language][0][:16]]
