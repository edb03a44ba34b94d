"""Layers, queues, schedules and balancing in one Distiller, in every way to run it."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from small_models import assert_equal_weights, everything, fit, fit_stages, pairs, weights

import kdkeras
from kdkeras.distillation import RunningMagnitude, UncertaintyWeighting
from kdkeras.training import Stage

# Two batches of seven rows; chunks of three make three equal chunks of two filled-up rows.
ROWS, BATCH = 14, 7


def trained(**arguments):
    x, _ = pairs(rows=ROWS)
    distiller = everything(**arguments)
    logs = fit(distiller, x, None, batch_size=BATCH, epochs=2)
    return distiller, logs


WAYS = {
    "graph": {"chunk_size": 3},
    "eager": {"chunk_size": 3, "run_eagerly": True},
    "jit": {"chunk_size": 3, "jit_compile": True},
}
QUICK = ((UncertaintyWeighting, "graph"), (RunningMagnitude, "jit"))


@pytest.mark.parametrize(
    ("balancing", "way"),
    [
        pytest.param(
            balancing,
            WAYS[way],
            id=f"{balancing.__name__}-{way}",
            marks=[pytest.mark.slow] * ((balancing, way) not in QUICK),
        )
        for balancing in (UncertaintyWeighting, RunningMagnitude)
        for way in WAYS
    ],
)
def test_chunks_change_nothing(balancing, way):
    (plain, logs), (chunked, other_logs) = (
        trained(balancing=balancing),
        trained(balancing=balancing, **way),
    )
    before = weights(everything(balancing=balancing))
    moved = [np.abs(a - b).max() for a, b in zip(weights(plain), before, strict=True)]
    # The queue, the sizes or variances of terms, the projection of layers, and the student.
    assert sum(by > 1e-3 for by in moved) > 30
    assert_equal_weights(weights(chunked), weights(plain), atol=5e-6)
    assert sorted(logs) == sorted(other_logs)
    for name, values in logs.items():
        # A term near zero, the difference of larger numbers, is what its weight is divided by.
        np.testing.assert_allclose(other_logs[name], values, rtol=1e-4, atol=1e-6)
    x, _ = pairs(rows=ROWS)
    one, other = (
        each.evaluate(x, None, batch_size=BATCH, verbose=0, return_dict=True)
        for each in (plain, chunked)
    )
    assert sorted(one) == sorted(other)
    for name, value in one.items():
        assert other[name] == pytest.approx(value, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("arguments", [{}, {"chunk_size": 3}], ids=["whole", "chunks"])
def test_a_saved_distiller_goes_on(tmp_path, arguments):
    x, _ = pairs(rows=ROWS)
    distiller, _ = trained(**arguments)
    distiller.save(tmp_path / "distiller.keras")
    copy = kdkeras.load(tmp_path / "distiller.keras")
    object.__setattr__(copy, "_teacher_holder", (distiller.teacher,))
    assert copy.chunk_size == distiller.chunk_size
    assert_equal_weights(weights(copy), weights(distiller))
    for one in (copy, distiller):
        fit(one, x, None, batch_size=BATCH)
    assert_equal_weights(weights(copy), weights(distiller), atol=1e-6)


def test_a_stage_without_the_queue_leaves_it_alone():
    x, _ = pairs(rows=ROWS)
    data = tf.data.Dataset.from_tensor_slices((x,)).batch(BATCH)
    distiller = everything(chunk_size=3)
    queue = distiller.distillation_losses["queue"].queue
    first = Stage(steps=2, loss_weights={"prefixes": 1.0})
    fit_stages(distiller, data, [first], verbose=0)
    np.testing.assert_array_equal(queue, np.zeros((6, 32)))
    second = Stage(steps=2, loss_weights={"queue": 1.0, "hidden": 1.0})
    logs = fit_stages(distiller, data, [first, second], verbose=0).history
    assert np.abs(queue.numpy()).sum(axis=1).min() > 0
    assert {"queue", "hidden"} <= set(logs) and not {"prefixes", "ranking"} & set(logs)
