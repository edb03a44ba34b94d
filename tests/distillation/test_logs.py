"""Logged values, and the effect of sample weights."""

from __future__ import annotations

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from small_models import (
    CLASSES,
    assert_equal_weights,
    every_loss,
    fit,
    make_distiller,
    make_student,
    make_two_heads,
    one_side,
    pairs,
    weights,
)

LABELS = np.array([0, 3, 1, 1, 2, 0, 3, 2, 1, 0])


def rows_of(x, y, rows):
    return {k: v[rows] for k, v in x.items()}, {k: v[rows] for k, v in y.items()}


def cosine_of_rows(student, x, y):
    """The cosine term of each row, from the oracle."""
    sides = (student(one_side(x, side)).numpy() for side in ("source", "translation"))
    return sum(oracles.embedding_cosine(y["embedding"], side) for side in sides)


@pytest.mark.parametrize("run", ["fit", "evaluate"])
def test_logs_are_means_over_all_rows_of_uneven_batches(run):
    x, y = pairs(rows=10)
    distiller = make_distiller(optimizer=keras.optimizers.SGD(0.0))
    if run == "fit":
        logs = {name: values[0] for name, values in fit(distiller, x, y).items()}
    else:
        logs = distiller.evaluate(x, y, batch_size=4, verbose=0, return_dict=True)
    expected = cosine_of_rows(distiller.student, x, y).mean()
    assert logs == {"loss": pytest.approx(expected), "embedding": pytest.approx(expected)}


def test_loss_is_the_weighted_sum_of_its_terms():
    x, y = pairs()
    logs = make_distiller(**every_loss()).evaluate(x, y, verbose=0, return_dict=True)
    terms = 2.0 * logs["embedding"] + 0.5 * logs["similarity"] + 0.25 * logs["ranking"]
    assert set(logs) == {"loss", "embedding", "similarity", "ranking"}
    assert logs["loss"] == pytest.approx(terms, rel=1e-6)


def test_evaluating_twice_gives_the_same_number_and_changes_no_weight():
    x, y = pairs(rows=6)
    distiller = make_distiller(**every_loss())
    before = weights(distiller.student)
    first, second = (distiller.evaluate(x, y, batch_size=4, verbose=0) for _ in range(2))
    assert first == second
    assert_equal_weights(weights(distiller.student), before)


def test_running_means_are_reset_in_every_epoch():
    x, y = pairs()
    logs = fit(make_distiller(optimizer=keras.optimizers.SGD(0.0)), x, y, epochs=2)
    assert logs["loss"][0] == logs["loss"][1]


def test_validation_is_logged_beside_training():
    x, y = pairs()
    distiller = make_distiller(optimizer=keras.optimizers.SGD(0.0))
    logs = fit(distiller, x, y, validation_data=pairs(seed=1))
    expected = cosine_of_rows(distiller.student, *pairs(seed=1)).mean()
    assert logs["val_embedding"] == pytest.approx([expected])


def test_a_row_of_weight_zero_changes_only_the_denominator():
    x, y = pairs()
    weighted = make_distiller(optimizer=keras.optimizers.SGD(0.3))
    logs = fit(weighted, x, y, sample_weight=np.array([1.0, 1.0, 1.0, 0.0]))
    # Three rows divided by four instead of three: the same step at 3/4 of the rate.
    three = make_distiller(optimizer=keras.optimizers.SGD(0.3 * 3 / 4))
    fewer = fit(three, *rows_of(x, y, slice(3)))
    assert_equal_weights(weights(weighted.student), weights(three.student), atol=1e-6)
    assert logs["embedding"][0] == pytest.approx(fewer["embedding"][0] * 3 / 4)


def test_a_weight_multiplies_every_term_of_its_row():
    x, y = pairs()
    distiller, twos = make_distiller(**every_loss()), np.full(4, 2.0)
    once, twice = (
        distiller.evaluate(x, y, sample_weight=w, verbose=0, return_dict=True) for w in (None, twos)
    )
    assert twice == {name: pytest.approx(2 * value) for name, value in once.items()}


def test_sample_weights_of_a_dataset_equal_those_of_arrays():
    x, y = pairs()
    sample_weight = np.array([0.5, 2.0, 0.0, 1.0], "float32")
    dataset = tf.data.Dataset.from_tensor_slices((x, y, sample_weight)).batch(4)
    distiller = make_distiller(**every_loss())
    assert distiller.evaluate(dataset, verbose=0) == pytest.approx(
        distiller.evaluate(x, y, sample_weight=sample_weight, verbose=0)
    )


# ---- labels -------------------------------------------------------------


def task(**arguments):
    """A Distiller with a task loss and a metric on the labels."""
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return make_distiller(make_two_heads(), loss=loss, metrics=["accuracy"], **arguments)


def test_task_loss_and_metric_read_labels_and_logits():
    x, y = pairs(rows=10)
    distiller = task(loss_weights={"task": 0.5})
    logs = distiller.evaluate(x, {**y, "label": LABELS}, batch_size=4, verbose=0, return_dict=True)
    logits = distiller.student(one_side(x))["logits"].numpy()
    expected = -oracles.log_softmax(logits)[np.arange(10), LABELS].mean()
    assert logs["task"] == pytest.approx(expected, rel=1e-5)
    assert logs["accuracy"] == pytest.approx((logits.argmax(1) == LABELS).mean())
    assert logs["loss"] == pytest.approx(logs["embedding"] + 0.5 * logs["task"], rel=1e-6)


def test_task_loss_trains_on_labels():
    x, y = pairs(rows=10)
    distiller = task()
    logs = fit(distiller, x, {**y, "label": LABELS}, batch_size=10, epochs=10)
    assert logs["task"][-1] < logs["task"][0]
    assert logs["accuracy"][-1] >= logs["accuracy"][0]


def test_batches_without_labels_have_no_task_loss():
    logs = task().evaluate(*pairs(), verbose=0, return_dict=True)
    assert set(logs) == {"loss", "embedding"}


def test_task_loss_alone_equals_keras():
    x, _ = pairs(rows=8)
    labels = np.eye(3, dtype="float32")[LABELS[:8] % 3]
    distiller = make_distiller(distillation_losses={}, loss="mse")
    fit(distiller, one_side(x), labels)
    plain = make_student()
    plain.compile(keras.optimizers.SGD(0.5), loss="mse", jit_compile=False)
    plain.fit(one_side(x), labels, batch_size=4, shuffle=False, verbose=0)
    assert_equal_weights(weights(distiller.student), weights(plain), atol=1e-6)


def test_class_weight_works_on_plain_labels():
    x, _ = pairs(rows=8)
    weight = {0: 1.0, 1: 2.0, 2: 0.0, 3: 0.5}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    results = []
    for arguments in (
        {"class_weight": weight},
        {"sample_weight": np.array([weight[label] for label in LABELS[:8]])},
    ):
        distiller = make_distiller(make_two_heads(), distillation_losses={}, loss=loss)
        fit(distiller, one_side(x), LABELS[:8], **arguments)
        results.append(weights(distiller.student))
    assert_equal_weights(*results, atol=1e-6)


def test_predict_returns_the_students_outputs():
    x, _ = pairs(rows=6)
    distiller = make_distiller()
    expected = distiller.student(one_side(x))
    for inputs in (x, one_side(x)):
        np.testing.assert_allclose(
            distiller.predict(inputs, batch_size=4, verbose=0), expected, atol=1e-6
        )


def test_predict_returns_every_output_by_name():
    outputs = make_distiller(make_two_heads()).predict(pairs()[0], verbose=0)
    assert outputs["embedding"].shape == (4, 3) and outputs["logits"].shape == (4, CLASSES)
