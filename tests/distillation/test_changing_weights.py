"""Loss weights and temperatures that are schedules of the step."""

from __future__ import annotations

import keras
import numpy as np
import oracles
import oracles_schedules
import pytest
from contracts import assert_one_line
from small_models import (
    assert_equal_weights,
    fit,
    make_distiller,
    make_student,
    make_two_heads,
    one_side,
    pairs,
    weights,
)

from kdkeras.errors import InputError
from kdkeras.losses import EmbeddingDistillation, SimilarityDistillation, TranslationRanking
from kdkeras.schedules import LinearDecay, LinearWarmup

Linear = keras.optimizers.schedules.PolynomialDecay
Cosine = keras.optimizers.schedules.CosineDecay
RATE = 0.3


def changing(**arguments):
    """Every weight and the temperature change in the first steps."""
    return {
        "distillation_losses": {
            "embedding": EmbeddingDistillation(),
            "similarity": SimilarityDistillation(temperature=Linear(1.0, 4, 0.4)),
        },
        "alignment_losses": {"ranking": TranslationRanking(margin=0.1, scale=3.0)},
        "loss_weights": {
            "embedding": LinearWarmup(2.0, 4, initial=0.5),
            "similarity": LinearDecay(1.0, 0.3, 10),
            "ranking": Cosine(0.5, 4, alpha=0.2),
        },
        **arguments,
    }


def weights_at(step):
    return {
        "embedding": oracles_schedules.warmup(step, 2.0, 4, 0.5),
        "similarity": oracles_schedules.decay_to_zero(step, 1.0, 0.3, 10),
        "ranking": oracles_schedules.cosine(step, 0.5, 4, 0.2),
    }


def terms_at(parameters, x, y, step):
    source, translation = (
        oracles.static_student(parameters, *one_side(x, side).values())
        for side in ("source", "translation")
    )
    temperature = oracles_schedules.polynomial(step, 1.0, 4, 0.4)
    both, teacher = (source, translation), y["embedding"]
    return {
        "embedding": sum(oracles.embedding_cosine(teacher, s).mean() for s in both),
        "similarity": sum(oracles.similarity(teacher, s, temperature).mean() for s in both),
        "ranking": oracles.translation_ranking(*both, margin=0.1, scale=3.0).mean(),
    }


def total_at(parameters, x, y, step):
    terms = terms_at(parameters, x, y, step)
    return sum(weight * terms[name] for name, weight in weights_at(step).items())


def test_every_step_has_its_own_weights_and_temperature():
    x, y = pairs()
    distiller = make_distiller(optimizer=keras.optimizers.SGD(RATE), **changing())
    parameters = [w.astype("float64") for w in weights(distiller.student)]
    logs = fit(distiller, x, y, epochs=4)
    for step in range(4):
        assert logs["loss"][step] == pytest.approx(total_at(parameters, x, y, step), abs=2e-5)
        for name, value in terms_at(parameters, x, y, step).items():
            assert logs[name][step] == pytest.approx(value, abs=2e-5)
        for name, value in weights_at(step).items():
            assert logs[f"weight_{name}"][step] == pytest.approx(value, abs=1e-6)
        parameters = oracles_schedules.sgd(
            lambda p, step=step: total_at(p, x, y, step), parameters, RATE
        )
    assert_equal_weights(weights(distiller.student), parameters, atol=1e-4)


def test_evaluate_uses_the_weights_of_the_next_step():
    x, y = pairs()
    distiller = make_distiller(optimizer=keras.optimizers.SGD(0.0), **changing())
    fit(distiller, x, y, epochs=2)
    logs = distiller.evaluate(x, y, verbose=0, return_dict=True)
    parameters = [w.astype("float64") for w in weights(distiller.student)]
    assert set(logs) == {"loss", "embedding", "similarity", "ranking"}
    assert logs["loss"] == pytest.approx(total_at(parameters, x, y, 2), abs=2e-5)


WAYS = {
    "micro-batches": ({"micro_batches": 2}, {}),
    "accumulated gradients": ({}, {"gradient_accumulation_steps": 2}),
}


@pytest.mark.parametrize("way", WAYS)
def test_an_update_is_a_step(way):
    x, y = pairs(rows=8)
    arguments, settings = WAYS[way]
    optimizer = keras.optimizers.SGD(0.0, **settings)
    distiller = make_distiller(optimizer=optimizer, **changing(), **arguments)
    logs = fit(distiller, x, y, epochs=3, batch_size=8 if arguments else 4)
    assert logs["weight_embedding"] == pytest.approx([0.5, 0.875, 1.25])


def test_constant_weights_are_not_logged():
    distiller = make_distiller(loss_weights={"embedding": 2.0})
    assert set(fit(distiller, *pairs())) == {"loss", "embedding"}


def test_the_task_loss_takes_a_schedule():
    x, y = pairs()
    y["label"] = np.array([0, 3, 1, 1])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller = make_distiller(
        make_two_heads(),
        keras.optimizers.SGD(0.0),
        loss=loss,
        loss_weights={"task": LinearWarmup(1.0, 2)},
    )
    logs = fit(distiller, x, y, epochs=3)
    assert logs["weight_task"] == [0.0, 0.5, 1.0]
    for step, weight in enumerate((0.0, 0.5, 1.0)):
        expected = logs["embedding"][step] + weight * logs["task"][step]
        assert logs["loss"][step] == pytest.approx(expected, rel=1e-6)


def test_a_scaled_loss_keeps_its_scale_from_fit_to_fit():
    x, y = pairs()
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1), 2.0**127)
    distiller = make_distiller(make_student(dtype="mixed_float16"), optimizer)
    for scale in (126, 125):  # Each step's gradient overflows, which halves it.
        fit(distiller, x, y)
        assert float(optimizer.dynamic_scale) == 2.0**scale


class Falling(keras.optimizers.schedules.LearningRateSchedule):
    """A schedule without known turning points."""

    def __call__(self, step):
        return 1.0 - 0.4 * keras.ops.cast(step, "float32")

    def get_config(self):
        return {}


BAD = {
    "negative weight": ({"embedding": Linear(1.0, 5, -0.5)}, "embedding=-0.5 at step 5", "Use 0"),
    "negative at first": ({"embedding": LinearWarmup(1.0, 5, -0.1)}, "embedding=-0.1 at step 0"),
    "negative piece": (
        {"embedding": keras.optimizers.schedules.PiecewiseConstantDecay([7], [1.0, -1.0])},
        "embedding=-1 at step 8",
    ),
    "float steps": (
        {"embedding": keras.optimizers.schedules.PolynomialDecay(1.0, 4.0, -1.0)},
        "embedding=-1 at step 4",
    ),
    "custom schedule": ({"embedding": Falling()}, "embedding=-0.6 at step 4"),
    "infinite": ({"embedding": np.inf}, "embedding=inf", "finite"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_weight_that_becomes_negative_is_refused_in_one_line(case):
    loss_weights, *parts = BAD[case]
    with pytest.raises(InputError) as error:
        make_distiller(loss_weights=loss_weights)
    assert_one_line(str(error.value), "A loss weight must be 0 or more", *parts)


def test_the_name_of_a_log_is_refused():
    with pytest.raises(InputError) as error:
        make_distiller(distillation_losses={"weight_a": EmbeddingDistillation()})
    assert_one_line(str(error.value), "'weight_a' which is reserved")
