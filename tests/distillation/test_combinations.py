"""Schedules, queues, balancing and layers in one Distiller, in every way to run it."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf
from small_models import (
    OUTPUT_DIM,
    assert_equal_weights,
    everything,
    fit,
    fit_stages,
    make_distiller,
    pairs,
    weights,
)

from kdkeras.distillation import RunningMagnitude, UncertaintyWeighting
from kdkeras.losses import (
    EmbeddingDistillation,
    QueueContrast,
    SimilarityDistillation,
    TranslationRanking,
)
from kdkeras.optimizers import FusedAdam
from kdkeras.schedules import LinearDecay, LinearWarmup
from kdkeras.training import Stage


def distiller_with_states(balancing, **arguments):
    """A static student whose weights, temperature, queue and balancing change in every step."""
    falling = keras.optimizers.schedules.PolynomialDecay(1.0, 4, 0.4)
    return make_distiller(
        optimizer=FusedAdam(0.05),
        distillation_losses={
            "embedding": EmbeddingDistillation(),
            "similarity": SimilarityDistillation(temperature=falling),
            "queue": QueueContrast(OUTPUT_DIM, 5, 0.5),
        },
        alignment_losses={"ranking": TranslationRanking(margin=0.1, scale=3.0)},
        loss_weights={
            "embedding": LinearWarmup(2.0, 4, initial=0.5),
            "similarity": LinearDecay(1.0, 0.3, 10),
            "ranking": 0.25,
        },
        balancing=balancing(),
        **arguments,
    )


def trained(balancing, **arguments):
    distiller = distiller_with_states(balancing, **arguments)
    logs = fit(distiller, *pairs(rows=16))
    return weights(distiller), logs


@functools.cache
def trained_in_graph(balancing):
    """Every other way to run is compared with the default one."""
    return trained(balancing)


WAYS = {
    "eager": {"run_eagerly": True},
    "jit": {"jit_compile": True},
    "two steps per execution": {"steps_per_execution": 2},
    "chunks": {"chunk_size": 3},
    "chunks and two steps per execution": {"chunk_size": 3, "steps_per_execution": 2},
}


@pytest.mark.parametrize(
    ("way", "balancing"),
    [
        *((way, RunningMagnitude) for way in WAYS),
        *((way, UncertaintyWeighting) for way in ("eager", "jit")),
    ],
)
def test_every_way_to_run_gives_the_same_weights_and_logs(way, balancing):
    (expected, expected_logs), (found, logs) = (
        trained_in_graph(balancing),
        trained(balancing, **WAYS[way]),
    )
    assert_equal_weights(found, expected, atol=5e-6)
    assert sorted(logs) == sorted(expected_logs)
    for name, values in expected_logs.items():
        assert logs[name] == pytest.approx(values, rel=1e-5, abs=5e-6), name


def test_a_stage_without_the_queue_does_not_change_it():
    data = tf.data.Dataset.from_tensor_slices(pairs(rows=8)).batch(4)
    distiller = distiller_with_states(RunningMagnitude, chunk_size=3)
    queue = distiller.distillation_losses["queue"].queue
    first = Stage(steps=2, loss_weights={"embedding": 1.0})
    fit_stages(distiller, data, [first], verbose=0)
    np.testing.assert_array_equal(queue, np.zeros((5, OUTPUT_DIM)))
    second = Stage(steps=2, loss_weights={"queue": 1.0, "similarity": 1.0})
    logs = fit_stages(distiller, data, [first, second], verbose=0).history
    assert np.abs(queue.numpy()).sum(axis=1).min() > 0
    assert {"queue", "similarity"} <= set(logs) and not {"embedding", "ranking"} & set(logs)


# ---- layers of a transformer, with a live teacher --------------------------

# Two batches of seven rows; chunks of three: three equal chunks, two of their rows are padding.
ROWS, BATCH = 14, 7


def run_everything(balancing, **arguments):
    """Initial weights, weights, logs, and the logs of an evaluation."""
    x, _ = pairs(rows=ROWS)
    distiller = everything(balancing=balancing, **arguments)
    before = weights(distiller)
    logs = fit(distiller, x, None, batch_size=BATCH, epochs=2)
    evaluated = distiller.evaluate(x, None, batch_size=BATCH, verbose=0, return_dict=True)
    return before, weights(distiller), logs, evaluated


@pytest.mark.parametrize(
    ("balancing", "way"),
    [
        (UncertaintyWeighting, {}),
        pytest.param(UncertaintyWeighting, {"run_eagerly": True}, marks=pytest.mark.slow),
        pytest.param(RunningMagnitude, {"jit_compile": True}, marks=pytest.mark.slow),
    ],
    ids=["graph", "eager", "jit"],
)
def test_chunks_change_nothing(balancing, way):
    before, expected, expected_logs, expected_evaluated = run_everything(balancing)
    _, found, logs, evaluated = run_everything(balancing, chunk_size=3, **way)
    moved = [np.abs(a - b).max() for a, b in zip(expected, before, strict=True)]
    # The queue, the state of the balancing, the projection of layers, and the student.
    assert sum(by > 1e-3 for by in moved) > 30
    assert_equal_weights(found, expected, atol=5e-6)
    assert sorted(logs) == sorted(expected_logs)
    for name, values in expected_logs.items():
        # A term near zero, a difference of larger numbers, is divided by its rounded magnitude.
        np.testing.assert_allclose(logs[name], values, rtol=1e-4, atol=1e-6)
    assert sorted(evaluated) == sorted(expected_evaluated)
    for name, value in expected_evaluated.items():
        assert evaluated[name] == pytest.approx(value, rel=1e-4, abs=1e-6)
