"""KerasLoss: cases worked by hand, and refused functions."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from contracts import assert_one_line
from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses import KerasLoss

TEACHER = np.array([[2.0, 0.0], [0.0, 4.0]])
STUDENT = np.array([[0.0, 0.0], [0.0, -2.0]])


def mean_absolute(y_true, y_pred):
    return ops.mean(ops.abs(y_true - y_pred), axis=-1)


class MeanAbsolute(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return mean_absolute(y_true, y_pred)


# Differences at temperature 2: rows (1, 0) and (0, 3).
WORKED = {
    "mse": ("mse", [0.5, 4.5]),
    "mae": (keras.losses.MeanAbsoluteError(), [0.5, 1.5]),
    # x^2 / 2 up to 1, x - 1/2 beyond: (1/2, 0) and (0, 5/2).
    "huber": (keras.losses.Huber(), [0.25, 1.25]),
    "huber, delta": (
        keras.losses.Huber(delta=3.0),
        [0.25, 2.25],
    ),  # Within 3 everywhere: 9 / 2 / 2.
    # The loss's own reduction is not applied.
    "no reduction": (keras.losses.MeanAbsoluteError(reduction=None), [0.5, 1.5]),
    "own function": (mean_absolute, [0.5, 1.5]),
    "own loss": (MeanAbsolute(), [0.5, 1.5]),
}


@pytest.mark.parametrize("case", WORKED)
def test_functions_and_losses_by_hand(case):
    function, expected = WORKED[case]
    values = KerasLoss(function, temperature=2.0)(TEACHER, STUDENT)
    np.testing.assert_allclose(values, expected, rtol=1e-6)


def test_cosine_similarity_has_its_minimum_at_the_teacher():
    values = KerasLoss("cosine_similarity")(TEACHER, 3 * TEACHER)
    np.testing.assert_allclose(values, [-1, -1], rtol=1e-6)


@pytest.mark.parametrize(
    "function",
    [
        "kl_divergence",
        "categorical_crossentropy",
        keras.losses.KLDivergence(),
        keras.losses.CategoricalCrossentropy(from_logits=True),
        keras.losses.BinaryCrossentropy(from_logits=True),
        keras.losses.Poisson(),
        keras.losses.CTC(),
    ],
    ids=lambda f: getattr(f, "name", f),
)
def test_losses_of_probabilities_or_labels_are_refused(function):
    with pytest.raises(InputError) as error:
        KerasLoss(function)
    assert_one_line(str(error.value), "minimum where they are equal", "SoftTargets(temperature=")


def test_sum_over_the_batch_is_refused():
    with pytest.raises(InputError) as error:
        KerasLoss(keras.losses.MeanSquaredError(reduction="sum"))
    assert_one_line(str(error.value), "mean over the batch", "reduction='sum'", "loss_weights=")


def test_one_value_per_batch_is_refused():
    with pytest.raises(InputError) as error:
        KerasLoss(lambda y_true, y_pred: ops.mean(ops.square(y_true - y_pred)))(TEACHER, STUDENT)
    assert_one_line(str(error.value), "one value per example", "`keras_loss`")


def test_arguments_of_a_keras_loss_survive_serialization():
    loss = KerasLoss(keras.losses.Huber(delta=3.0))
    copy = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    np.testing.assert_array_equal(copy(TEACHER, STUDENT), loss(TEACHER, STUDENT))
