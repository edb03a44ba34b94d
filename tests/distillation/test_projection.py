"""A student of another width, with a projection that is trained and saved with the loss."""

from __future__ import annotations

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from contracts import assert_one_line
from small_models import every_loss, fit, make_distiller, make_student, pairs, weights

import kdkeras
from kdkeras.errors import InputError
from kdkeras.losses import EmbeddingDistillation
from kdkeras.students import StaticStudent

WIDE = 5


def wide_pairs():
    x, y = pairs(rows=8)
    generator = np.random.default_rng(1)
    return x, {"embedding": generator.normal(size=(8, WIDE)).astype("float32")}


def projected(**arguments):
    return EmbeddingDistillation("mse", projection=(3, WIDE), **arguments)


def test_equals_the_oracle_of_projected_vectors():
    generator = np.random.default_rng(0)
    teacher, student = generator.normal(size=(4, WIDE)), generator.normal(size=(4, 3))
    loss = projected()
    expected = oracles.embedding_mse(teacher, student @ loss.get_weights()[0].astype(float))
    np.testing.assert_allclose(loss(teacher, student), expected, rtol=1e-5)


def test_gradient_of_the_projection_equals_central_differences():
    generator = np.random.default_rng(0)
    teacher, student = generator.normal(size=(4, WIDE)), generator.normal(size=(4, 3))
    loss = projected()
    with tf.GradientTape() as tape:
        value = tf.reduce_sum(loss(teacher, student))
    slope = tape.gradient(value, loss.trainable_weights[0].value)
    (expected,) = oracles.gradient(
        lambda w: oracles.embedding_mse(teacher, student @ w[0]).sum(), loss.get_weights()
    )
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-5)


def test_it_is_trained_and_saved_with_the_distiller_not_with_the_student(tmp_path):
    keras.utils.set_random_seed(0)
    loss = projected()
    distiller = make_distiller(
        make_student(), keras.optimizers.Adam(0.05), distillation_losses={"embedding": loss}
    )
    before = loss.get_weights()[0]
    logs = fit(distiller, *wide_pairs(), epochs=30)
    assert np.abs(loss.get_weights()[0] - before).max() > 0.1
    assert logs["loss"][-1] < 0.8 * logs["loss"][0]
    distiller.save(tmp_path / "d.keras")
    loaded = kdkeras.load(tmp_path / "d.keras")
    np.testing.assert_array_equal(
        loaded.distillation_losses["embedding"].get_weights()[0], loss.get_weights()[0]
    )
    assert len(weights(distiller.student)) == len(weights(make_student()))


def test_a_student_reaches_the_teacher_through_it():
    keras.utils.set_random_seed(0)
    x, _ = pairs(rows=8)
    teacher = StaticStudent(7, 3, 2, normalize=False)
    vectors = teacher({n: x[f"source_{n}"] for n in ("token_ids", "padding_mask")}).numpy()
    y = {"embedding": (vectors @ np.random.default_rng(0).normal(size=(3, WIDE))).astype("float32")}
    x = {name: value for name, value in x.items() if not name.startswith("translation")}
    student = StaticStudent(7, 3, 2, normalize=False)
    distiller = make_distiller(
        student, keras.optimizers.Adam(0.03), distillation_losses={"embedding": projected()}
    )
    # One long epoch: each epoch costs as much as many of these steps.
    distiller.fit(tf.data.Dataset.from_tensors((x, y)).repeat(500), verbose=0)
    loss = distiller.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    assert loss < 1e-3 * (y["embedding"] ** 2).mean()


@pytest.mark.parametrize("widths", [(3,), (3, 0), (3, 4, 5)])
def test_wrong_widths_are_refused(widths):
    with pytest.raises(InputError) as error:
        EmbeddingDistillation(projection=widths)
    assert_one_line(str(error.value), "`projection` must be", f"projection={list(widths)}")


def test_unequal_widths_without_it_are_refused():
    with pytest.raises(InputError) as error:
        fit(make_distiller(**every_loss()), *wide_pairs())
    assert_one_line(str(error.value), "projection=(3, 5)")
