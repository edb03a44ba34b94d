"""Losses of `keras.distillation` inside our Distiller."""

from __future__ import annotations

import warnings

import keras
import numpy as np
import oracles
import pytest
from contracts import assert_one_line
from keras.distillation import FeatureDistillation, LogitsDistillation
from small_models import fit, make_distiller, make_two_heads, one_side, pairs, weights

import kdkeras
from kdkeras.errors import InputError
from kdkeras.losses import KerasLoss, SoftTargets, TranslationRanking


def classes(loss, **arguments):
    """A Distiller of four classes with one loss, from a live teacher."""
    teacher = make_two_heads(seed=5)
    return make_distiller(
        make_two_heads(), teacher=teacher, distillation_losses={"one": loss}, **arguments
    )


def outputs(name):
    """Teacher's and student's outputs for the source side of `pairs`."""
    x, _ = pairs()
    models = make_two_heads(seed=5), make_two_heads()
    return [np.asarray(model(one_side(x))[name], float) for model in models]


def logged(loss):
    x, _ = pairs()
    distiller = classes(loss)
    return distiller.evaluate(one_side(x), verbose=0, return_dict=True)["one"]


def test_the_default_is_replaced_by_the_right_divergence_and_the_defect_named():
    with pytest.warns(UserWarning) as caught:
        value = logged(LogitsDistillation(temperature=2.0))
    assert value == pytest.approx(oracles.soft_targets(*outputs("logits"), 2.0).mean(), rel=1e-5)
    (warning,) = (w for w in caught if "LogitsDistillation" in str(w.message))
    for part in ("raw logits", "without softmax", "SoftTargets(temperature=2.0)", "KLDivergence()"):
        assert part in str(warning.message)
    # It points to the line that made the Distiller.
    assert warning.filename.endswith("small_models.py")


def test_a_student_is_moved_to_the_teacher_by_it():
    x, _ = pairs(rows=8)
    with pytest.warns(UserWarning, match="raw logits"):
        distiller = classes(LogitsDistillation(), optimizer=keras.optimizers.Adam(0.05))
    losses = fit(distiller, one_side(x), None, batch_size=8, epochs=100)["one"]
    assert losses[-1] < 0.05 * losses[0]


def in_keras(loss, name):
    """What Keras itself gives for the two models' outputs."""
    return float(loss.compute_loss(*(value.astype("float32") for value in outputs(name))))


RIGHT = {
    "KLDivergence": (LogitsDistillation(2.0, keras.losses.KLDivergence()), "logits"),
    "logits, mse": (LogitsDistillation(2.0, "mse"), "logits"),
    "logits, Huber": (LogitsDistillation(2.0, keras.losses.Huber(delta=0.5)), "logits"),
    "features": (FeatureDistillation(), "embedding"),
    "features, cosine": (FeatureDistillation("cosine_similarity"), "embedding"),
    "features, instance": (FeatureDistillation(keras.losses.MeanAbsoluteError()), "embedding"),
}


@pytest.mark.parametrize("case", RIGHT)
def test_where_keras_is_right_the_number_is_the_same(case):
    loss, name = RIGHT[case]
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        value = logged(loss)
    assert value == pytest.approx(in_keras(loss, name), rel=1e-5)


def test_rows_are_weighed_one_by_one():
    x, _ = pairs()
    distiller = classes(FeatureDistillation(keras.losses.MeanSquaredError()))
    weight = np.array([0.0, 1.0, 0.5, 2.0], "float32")
    # Keras hands on no weights beside a `y` that is None.
    y = {"embedding": outputs("embedding")[0].astype("float32")}
    logs = distiller.evaluate(
        one_side(x), y, sample_weight=weight, batch_size=4, verbose=0, return_dict=True
    )
    expected = (weight * oracles.embedding_mse(*outputs("embedding"))).mean()
    assert logs["one"] == pytest.approx(expected, rel=1e-5)


def test_a_saved_distiller_holds_the_replacement(tmp_path):
    distiller = classes(LogitsDistillation(2.0, keras.losses.Huber(delta=0.5)))
    x, y = one_side(pairs()[0]), {"logits": outputs("logits")[0].astype("float32")}
    fit(distiller, x, y)
    distiller.save(tmp_path / "distiller.keras")
    copy = kdkeras.load(tmp_path / "distiller.keras")
    assert isinstance(copy.distillation_losses["one"], KerasLoss)
    assert fit(copy, x, y, epochs=2) == fit(distiller, x, y, epochs=2)
    np.testing.assert_array_equal(weights(copy)[0], weights(distiller)[0])


class OneValue(keras.distillation.DistillationLoss):
    def compute_loss(self, teacher_outputs, student_outputs, **kwargs):
        return keras.ops.mean(keras.ops.square(teacher_outputs - student_outputs))


class Derived(LogitsDistillation):
    """Its compute_loss may be any: it is not taken for its base class."""


UNFIT = {
    "unknown": (OneValue(), "one value an example", "OneValue as 'one'", "implement"),
    "derived": (Derived(), "one value an example", "Derived as 'one'", "KerasLoss("),
    "a Keras loss": (keras.losses.MeanSquaredError(), "MeanSquaredError as", "KerasLoss("),
    "a name": ("mse", "str as 'one'", "KerasLoss("),
    "alignment": (TranslationRanking(), "TranslationRanking as 'one'"),
    "several outputs": (LogitsDistillation(loss={"a": "mse", "b": None}), "one output", "'a'"),
    "layers": (
        FeatureDistillation("mse", "dense_1", "dense_2"),
        "outputs, not layers",
        "'dense_1'",
        "'dense_2'",
        "KerasLoss('mse', target=",
    ),
    "student's layer": (FeatureDistillation("mse", None, "dense_2"), "'dense_2'"),
    "cross-entropy of raw logits": (
        LogitsDistillation(loss=keras.losses.CategoricalCrossentropy(from_logits=True)),
        "categorical_crossentropy",
        "SoftTargets(",
    ),
    "sum over the batch": (
        LogitsDistillation(loss=keras.losses.KLDivergence(reduction="sum")),
        "reduction='sum'",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_cannot_be_taken_is_refused_saying_what_to_do(case):
    loss, *parts = UNFIT[case]
    with pytest.raises(InputError) as error:
        classes(loss)
    assert_one_line(str(error.value), *parts)


@pytest.mark.parametrize("given", [SoftTargets(), [LogitsDistillation()]], ids=["one", "list"])
def test_losses_without_names_are_refused(given):
    with pytest.raises(InputError) as error:
        make_distiller(distillation_losses=given)
    assert_one_line(str(error.value), "by name", type(given).__name__, 'distillation_losses={"')
