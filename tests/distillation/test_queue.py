"""The queue of a loss: filled once per training step, unchanged in evaluation."""

from __future__ import annotations

import keras
import numpy as np
import oracles
import oracles_embeddings
import pytest
from small_models import (
    fit,
    make_distiller,
    make_student,
    make_two_heads,
    one_side,
    pairs,
    weights,
)

import kdkeras
from kdkeras.losses import QueueDistillation


def with_queue(student=None, optimizer=None, size=6, **arguments):
    losses = {"queue": QueueDistillation(3, size=size, temperature=0.5)}
    return make_distiller(student, optimizer, distillation_losses=losses, **arguments)


def queue_of(distiller):
    return distiller.distillation_losses["queue"].queue.numpy()


def test_it_holds_the_teacher_embeddings_of_the_last_steps_once():
    x, y = pairs(rows=8)
    distiller = with_queue()
    fit(distiller, x, y)
    # Two steps of four rows, without the oldest two; translations add nothing.
    np.testing.assert_allclose(queue_of(distiller), oracles.unit(y["embedding"])[2:], atol=1e-6)


def test_a_step_uses_earlier_steps_and_not_its_own_rows():
    x, y = pairs(rows=8)
    distiller = with_queue(optimizer=keras.optimizers.SGD(0.0))
    logs = fit(distiller, x, y)
    teacher, seen = y["embedding"], np.zeros((0, 3))
    values = []
    for start in (0, 4):
        rows = slice(start, start + 4)
        for side in ("source", "translation"):
            student = distiller.student(one_side({k: v[rows] for k, v in x.items()}, side)).numpy()
            values.append(
                oracles_embeddings.queue_similarity(teacher[rows], student, seen, temperature=0.5)
            )
        seen = teacher[rows]
    assert logs["queue"][0] == pytest.approx(np.sum(values) / 8, rel=1e-5)


def test_evaluation_reads_it_and_does_not_change_it():
    x, y = pairs(rows=8)
    distiller = with_queue()
    fit(distiller, x, y)
    before = queue_of(distiller)
    first, second, alone = (
        one.evaluate(x, y, batch_size=4, verbose=0, return_dict=True)["queue"]
        for one in (distiller, distiller, with_queue(distiller.student))
    )
    np.testing.assert_array_equal(queue_of(distiller), before)
    assert first == second and abs(first - alone) > 1e-3


def test_micro_batches_of_a_step_use_one_queue_and_add_all_rows():
    x, y = pairs(rows=8)
    distiller = with_queue(optimizer=keras.optimizers.SGD(0.0), size=8, micro_batches=2)
    logs = fit(distiller, x, y, batch_size=8)
    unit = oracles.unit(y["embedding"])
    np.testing.assert_allclose(queue_of(distiller), [*unit[::2], *unit[1::2]], atol=1e-6)
    # In the first step it is empty for both parts, which compare their own rows.
    expected = [
        oracles.similarity(
            y["embedding"][part::2], distiller.student(one_side(x, side)).numpy()[part::2], 0.5
        ).sum()
        for part in (0, 1)
        for side in ("source", "translation")
    ]
    assert logs["queue"][0] == pytest.approx(sum(expected) / 8, rel=1e-5)


def test_it_takes_the_embeddings_of_a_live_teacher():
    x, _ = pairs()
    teacher = make_two_heads(seed=5)
    distiller = with_queue(teacher=teacher, size=4)
    fit(distiller, x, None)
    vectors = teacher(one_side(x), training=False)["embedding"].numpy()
    np.testing.assert_allclose(queue_of(distiller), oracles.unit(vectors), atol=1e-6)


def test_a_non_finite_step_does_not_change_it():
    x, y = pairs(rows=8)
    y["embedding"][5, 0] = np.nan
    distiller = with_queue()
    with pytest.raises(kdkeras.NonFiniteLossError):
        fit(distiller, x, y)
    expected = oracles.unit(y["embedding"][:4])
    np.testing.assert_allclose(queue_of(distiller), [*np.zeros((2, 3)), *expected], atol=1e-6)


def test_it_changes_the_training_and_is_not_part_of_the_student():
    x, y = pairs(rows=8)
    distiller, memoryless = with_queue(), with_queue(size=1)
    for one in (distiller, memoryless):
        fit(one, x, y, epochs=2)
    assert len(distiller.student.get_weights()) == len(make_student().get_weights())
    moved = weights(distiller.student)[0] - weights(memoryless.student)[0]
    assert np.abs(moved).max() > 1e-4
