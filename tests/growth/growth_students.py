"""Training students for a few steps."""

from __future__ import annotations

import keras
import numpy as np
import tensorflow as tf


def train(student, lessons, steps, rate=0.01):
    """Trains with Adam on the teacher's vectors; returns the optimizer."""
    optimizer = keras.optimizers.Adam(rate)
    batch, targets = lessons

    @tf.function
    def step(inputs, target):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(student(inputs, training=False) - target))
        weights = student.trainable_variables
        optimizer.apply([tf.convert_to_tensor(g) for g in tape.gradient(loss, weights)], weights)

    optimizer.build(student.trainable_variables)
    for number in range(steps):
        rows = slice(32 * (number % 8), 32 * (number % 8 + 1))
        step({k: tf.constant(v[rows]) for k, v in batch.items()}, tf.constant(targets[rows]))
    return optimizer


def roughen(student):
    """Randomizes norms and biases, whose initial 1 and 0 would hide errors."""
    generator = np.random.default_rng(5)
    for weight in student.trainable_variables:
        if len(weight.shape) == 1 or weight.shape[1] == 1:
            weight.assign_add(generator.normal(0, 0.1, weight.shape).astype("float32"))
    return student
