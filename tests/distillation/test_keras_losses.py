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


def test_the_default_is_replaced_by_the_correct_divergence_with_a_warning():
    with pytest.warns(UserWarning) as caught:
        value = logged(LogitsDistillation(temperature=2.0))
    assert value == pytest.approx(oracles.soft_targets(*outputs("logits"), 2.0).mean(), rel=1e-5)
    (warning,) = (w for w in caught if "LogitsDistillation" in str(w.message))
    for part in ("raw logits", "without softmax", "SoftTargets(temperature=2.0)", "KLDivergence()"):
        assert part in str(warning.message)
    # It points to the line that created the Distiller.
    assert warning.filename.endswith("small_models.py")


def test_training_with_it_moves_a_student_toward_its_teacher():
    x, _ = pairs(rows=8)
    with pytest.warns(UserWarning, match="raw logits"):
        distiller = classes(LogitsDistillation(), optimizer=keras.optimizers.Adam(0.05))
    losses = fit(distiller, one_side(x), None, batch_size=8, epochs=100)["one"]
    assert losses[-1] < 0.05 * losses[0]


def in_keras(loss, name):
    """The value of Keras for the outputs of the two models."""
    return float(loss.compute_loss(*(value.astype("float32") for value in outputs(name))))


CORRECT = {
    "KLDivergence": (LogitsDistillation(2.0, keras.losses.KLDivergence()), "logits"),
    "logits, mse": (LogitsDistillation(2.0, "mse"), "logits"),
    "logits, Huber": (LogitsDistillation(2.0, keras.losses.Huber(delta=0.5)), "logits"),
    "features": (FeatureDistillation(), "embedding"),
    "features, cosine": (FeatureDistillation("cosine_similarity"), "embedding"),
    "features, instance": (FeatureDistillation(keras.losses.MeanAbsoluteError()), "embedding"),
}


def test_where_keras_is_correct_the_value_is_the_same():
    losses = {name: loss for name, (loss, _) in CORRECT.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        distiller = make_distiller(
            make_two_heads(), teacher=make_two_heads(seed=5), distillation_losses=losses
        )
    logs = distiller.evaluate(one_side(pairs()[0]), verbose=0, return_dict=True)
    for name, (loss, output) in CORRECT.items():
        assert logs[name] == pytest.approx(in_keras(loss, output), rel=1e-5), name


def test_sample_weights_multiply_every_row():
    x, _ = pairs()
    distiller = classes(FeatureDistillation(keras.losses.MeanSquaredError()))
    weight = np.array([0.0, 1.0, 0.5, 2.0], "float32")
    # Keras drops the weights if `y` is None.
    y = {"embedding": outputs("embedding")[0].astype("float32")}
    logs = distiller.evaluate(
        one_side(x), y, sample_weight=weight, batch_size=4, verbose=0, return_dict=True
    )
    expected = (weight * oracles.embedding_mse(*outputs("embedding"))).mean()
    assert logs["one"] == pytest.approx(expected, rel=1e-5)


def test_a_saved_distiller_has_the_replacement(tmp_path):
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
    """A subclass is not converted, because its compute_loss may differ."""


UNFIT = {
    "unknown": (OneValue(), "one value per example", "OneValue as 'one'", "implement"),
    "derived": (Derived(), "one value per example", "Derived as 'one'", "KerasLoss("),
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
def test_other_losses_are_refused(case):
    loss, *parts = UNFIT[case]
    with pytest.raises(InputError) as error:
        classes(loss)
    assert_one_line(str(error.value), *parts)


@pytest.mark.parametrize("given", [SoftTargets(), [LogitsDistillation()]], ids=["one", "list"])
def test_losses_without_names_are_refused(given):
    with pytest.raises(InputError) as error:
        make_distiller(distillation_losses=given)
    assert_one_line(
        str(error.value), "in a dict by name", type(given).__name__, 'distillation_losses={"'
    )
