"""Balancing: weights equal the formulas in every step."""

from __future__ import annotations

import keras
import numpy as np
import oracles_schedules
import pytest
import tensorflow as tf
from contracts import assert_config_round_trip, assert_one_line
from small_models import assert_equal_weights, every_loss, fit, make_distiller, pairs, weights
from test_step import oracle_terms

from kdkeras.distillation import RunningMagnitude, UncertaintyWeighting
from kdkeras.errors import InputError, NonFiniteLossError
from kdkeras.losses import EmbeddingDistillation
from kdkeras.schedules import LinearWarmup

WEIGHTS = {"embedding": 2.0, "similarity": 0.5, "ranking": 0.25}
RATE, MOMENTUM = 0.05, 0.6
BALANCINGS = {
    "magnitude": lambda: RunningMagnitude(momentum=MOMENTUM),
    "uncertainty": UncertaintyWeighting,
}
every_balancing = pytest.mark.parametrize("make", BALANCINGS.values(), ids=BALANCINGS)


def balanced(balancing, optimizer=None, **arguments):
    arguments = {**every_loss(), **arguments}
    optimizer = optimizer or keras.optimizers.SGD(RATE)
    return make_distiller(optimizer=optimizer, balancing=balancing, **arguments)


def means(parameters, x, y):
    return {name: values.mean() for name, values in oracle_terms(parameters, x, y).items()}


def test_running_magnitude_equals_the_formula_in_every_step():
    x, y = pairs()
    distiller = balanced(RunningMagnitude(momentum=MOMENTUM))
    parameters = [w.astype("float64") for w in weights(distiller.student)]
    logs = fit(distiller, x, y, epochs=4)
    seen = []
    for step in range(4):
        now = means(parameters, x, y)
        found = oracles_schedules.magnitude_weights(seen, now, WEIGHTS, MOMENTUM)
        total = sum(found[name] * now[name] for name in WEIGHTS)
        assert logs["loss"][step] == pytest.approx(total, rel=1e-4)
        for name in WEIGHTS:
            assert logs[f"weight_{name}"][step] == pytest.approx(found[name], rel=1e-4)
            assert logs[name][step] == pytest.approx(now[name], rel=1e-4)
        seen.append(now)
        parameters = oracles_schedules.sgd(
            lambda p, found=found: sum(found[n] * v for n, v in means(p, x, y).items()),
            parameters,
            RATE,
        )
    assert_equal_weights(weights(distiller.student), parameters, atol=1e-4)


def test_uncertainty_equals_the_formula_in_every_step():
    x, y = pairs()
    distiller = balanced(UncertaintyWeighting())
    parameters = [w.astype("float64") for w in weights(distiller.student)]
    both = [*parameters, np.zeros(3)]
    logs = fit(distiller, x, y, epochs=4)

    def total(both):
        terms = means(both[:-1], x, y)
        return sum(
            weight * (np.exp(-s) * terms[name] + s)
            for (name, weight), s in zip(WEIGHTS.items(), both[-1], strict=True)
        )

    for step in range(4):
        assert logs["loss"][step] == pytest.approx(total(both), rel=1e-4)
        for s, (name, weight) in zip(both[-1], WEIGHTS.items(), strict=True):
            expected = weight * np.exp(-s)
            assert logs[f"weight_{name}"][step] == pytest.approx(expected, rel=1e-4)
        both = oracles_schedules.sgd(total, both, RATE)
    assert_equal_weights(weights(distiller.student), both[:-1], atol=1e-4)
    trained = [float(distiller.balancing.log_variances[name].value) for name in WEIGHTS]
    np.testing.assert_allclose(trained, both[-1], atol=1e-4)


def test_uncertainty_weighting_converges_to_the_inverse_of_each_term():
    x, y = pairs()
    distiller = balanced(UncertaintyWeighting(), keras.optimizers.SGD(0.5))
    distiller.student.trainable = False
    logs = fit(distiller, x, y, epochs=120)
    for name, weight in WEIGHTS.items():
        assert logs[f"weight_{name}"][-1] == pytest.approx(weight / logs[name][-1], rel=1e-3)


def test_the_scale_of_a_term_has_no_effect():
    class Thousandfold(EmbeddingDistillation):
        def loss(self, teacher, student):
            return 1000.0 * super().loss(teacher, student)

    x, y = pairs()
    results = []
    for loss in (EmbeddingDistillation, Thousandfold):
        losses = {**every_loss()["distillation_losses"], "embedding": loss()}
        distiller = balanced(RunningMagnitude(), distillation_losses=losses)
        fit(distiller, x, y, epochs=5)
        results.append(weights(distiller.student))
    assert_equal_weights(*results, atol=1e-5)


def test_a_term_near_zero_is_divided_by_epsilon():
    balancing = RunningMagnitude(epsilon=0.5)
    balancing.attach(["a"])
    weighted = balancing.weight_terms({"a": tf.constant(1e-3)}, {"a": 1.0}, tf.constant(1.0))
    assert float(weighted.weights["a"]) == 2.0


def test_micro_batches_count_as_one_step():
    x, y = pairs(rows=8)
    distiller = balanced(RunningMagnitude(momentum=MOMENTUM), micro_batches=2)
    logs = fit(distiller, x, y, batch_size=8)
    for name in WEIGHTS:
        assert float(distiller.balancing.steps[name].value) == 1.0
        size = float(distiller.balancing.magnitudes[name].value) / (1 - MOMENTUM)
        assert size == pytest.approx(logs[name][0], rel=1e-5)


def test_loss_weights_may_be_schedules():
    x, y = pairs()
    loss_weights = {**WEIGHTS, "embedding": LinearWarmup(1.0, 2)}
    optimizer = keras.optimizers.SGD(0.0)
    distiller = balanced(RunningMagnitude(), optimizer, loss_weights=loss_weights)
    logs = fit(distiller, x, y, epochs=3)
    shares = [w * v for w, v in zip(logs["weight_embedding"], logs["embedding"], strict=True)]
    assert shares == pytest.approx([0.0, 0.5, 1.0], abs=1e-5)


@every_balancing
def test_evaluation_changes_nothing(make):
    distiller = balanced(make())
    fit(distiller, *pairs())
    before = weights(distiller)
    first, second = (distiller.evaluate(*pairs(seed=1), verbose=0) for _ in range(2))
    assert first == second
    assert_equal_weights(weights(distiller), before)


def test_a_non_finite_step_does_not_change_the_state():
    x, y = pairs(rows=8)
    y["embedding"][4, 0] = np.nan
    distiller = balanced(RunningMagnitude(momentum=MOMENTUM))
    with pytest.raises(NonFiniteLossError, match="at step 2"):
        fit(distiller, x, y)
    sizes = [float(v.value) for v in distiller.balancing.magnitudes.values()]
    assert np.isfinite(sizes).all()
    assert {float(distiller.balancing.steps[name].value) for name in WEIGHTS} == {1.0}


def test_no_variable_is_trained_without_a_task_loss(recwarn):
    fit(balanced(UncertaintyWeighting()), *pairs())
    assert not [w for w in recwarn if "Gradients do not exist" in str(w.message)]


def test_configuration_round_trip():
    assert_config_round_trip(RunningMagnitude, {"momentum": 0.5, "epsilon": 1e-2})
    assert_config_round_trip(UncertaintyWeighting, {})


def shared():
    balancing = RunningMagnitude()
    balanced(balancing)
    return balanced(balancing)


BAD = {
    "no momentum": (lambda: RunningMagnitude(momentum=1.0), "`momentum`", "momentum=1.0", "0.99"),
    "no epsilon": (lambda: RunningMagnitude(epsilon=0.0), "`epsilon`", "epsilon=0.0", "1e-4"),
    "shared": (shared, "one Distiller", "'embedding'", "another RunningMagnitude"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_refused_in_one_line(case):
    act, *parts = BAD[case]
    with pytest.raises(InputError) as error:
        act()
    assert_one_line(str(error.value), *parts)
