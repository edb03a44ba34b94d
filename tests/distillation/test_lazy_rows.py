"""A step of LazyAdam updates only rows that occur in the batch, and reads no whole table."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts import assert_one_line
from small_models import every_loss, fit, make_distiller, make_student, pairs, weights

from kdkeras.distribution.tpu_check import _all_ops
from kdkeras.errors import InputError
from kdkeras.optimizers import LazyAdam


def unseen(x):
    ids = np.concatenate([x["source_token_ids"], x["translation_token_ids"]])
    return sorted(set(range(7)) - set(ids.ravel().tolist()))


def rare_pairs():
    """Pairs in which the tokens 5 and 6 do not occur."""
    x, y = pairs()
    for name in ("source_token_ids", "translation_token_ids"):
        x[name] = np.minimum(x[name], 4)
    return x, y


@pytest.mark.parametrize("way", [{}, {"micro_batches": 2}, {"chunk_size": 3}], ids=str)
def test_rows_that_do_not_occur_in_the_batch_keep_their_moments(way):
    distiller = make_distiller(optimizer=LazyAdam(0.05), **way, **every_loss())
    fit(distiller, *pairs(rows=16), epochs=2)
    state = [np.array(v) for v in (*weights(distiller.student), *distiller.optimizer.variables)]
    x, y = rare_pairs()
    absent = unseen(x)
    assert {5, 6} <= set(absent)
    fit(distiller, x, y)
    after = [np.array(v) for v in (*weights(distiller.student), *distiller.optimizer.variables)]
    tables = [(a, b) for a, b in zip(state, after, strict=True) if a.shape[:1] == (7,)]
    assert len(tables) == 6  # Two tables with two moments each.
    for before, now in tables:
        np.testing.assert_array_equal(now[absent], before[absent])
        assert np.abs(now[3] - before[3]).max() > 0


@pytest.mark.parametrize(("dtype", "chunk_size"), [("mixed_bfloat16", None), ("float32", 3)])
def test_training_reads_no_whole_table(dtype, chunk_size):
    """Reading a whole table copies it if its rows are updated in place."""
    assert whole_reads(LazyAdam(0.05), dtype, chunk_size=chunk_size) == []


def test_adam_of_keras_reads_whole_tables():
    assert whole_reads(keras.optimizers.Adam(0.05), "float32") != []


def whole_reads(optimizer, dtype, **arguments):
    """The operations of a compiled step that read a whole table."""
    distiller = make_distiller(make_student(dtype=dtype), optimizer, **arguments, **every_loss())
    fit(distiller, *pairs())
    step = tf.function(distiller.train_step, autograph=False)
    graph = step.get_concrete_function(tf.nest.map_structure(tf.constant, pairs())).graph
    # Also in the graphs of loops, which capture the variables; no other tensor has this shape.
    tables = {tuple(w.shape) for w in distiller.trainable_weights if w.shape[0] == 7}
    assert len(tables) == 2
    return [
        op.name
        for op in _all_ops(graph, set())
        if op.type == "ReadVariableOp" and tuple(op.outputs[0].shape) in tables
    ]


def test_float16_is_refused():
    with pytest.raises(InputError) as error:
        make_distiller(make_student(dtype="mixed_float16"), LazyAdam(0.05), **every_loss())
    assert_one_line(str(error.value), "LazyAdam in float16", "bfloat16")
