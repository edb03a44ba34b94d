"""Operations that a TPU does not support are named with their line; the package has none."""

from __future__ import annotations

import inspect
import re

import numpy as np
import pytest
import tensorflow as tf
import tpu_cases
from small_models import every_loss, make_distiller, make_student, make_tagger, pairs

from kdkeras.distribution import check_tpu
from kdkeras.distribution.batches import one_length
from kdkeras.losses import EmbeddingDistillation, TokenCrossEntropy
from kdkeras.optimizers import FusedAdam, LazyAdam
from kdkeras.students import build_student


def batch(rows=8):
    return tf.nest.map_structure(tf.constant, pairs(rows=rows))


def open_batch():
    """Specification of batches with any number of rows."""
    return tf.nest.map_structure(lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), batch())


class Loss(EmbeddingDistillation):
    """A usual loss plus zero times the value of a function."""

    def __init__(self, extra):
        super().__init__()
        self.extra = extra

    def call(self, y_true, y_pred):
        rows = super().call(y_true, y_pred)
        return rows + 0.0 * tf.cast(self.extra(tf.cast(y_pred, tf.float32)), rows.dtype)


def line_of(function):
    return inspect.getsourcelines(function)[1]


UNFIT = {
    "Where": lambda x: tf.reduce_sum(tf.boolean_mask(x, x > 0)),
    "UniqueV2": lambda x: tf.cast(tf.size(tf.raw_ops.UniqueV2(x=x[:, 0], axis=[0]).y), tf.float32),
    "EagerPyFunc": lambda x: tf.ensure_shape(tf.py_function(np.sum, [x], tf.float32), []),
    "AsString": lambda x: tf.cast(tf.strings.length(tf.strings.as_string(x[0, 0])), tf.float32),
    "Cast": lambda x: tf.cast(tf.reduce_sum(tf.cast(x, tf.float64)), tf.float32),
    "RaggedRange": lambda x: tf.cast(
        tf.reduce_sum(tf.ragged.range(tf.cast(x[:, 0] > 0, tf.int32)).flat_values), tf.float32
    ),
}


@pytest.mark.parametrize("op", UNFIT)
def test_an_unsupported_operation_is_named_with_its_line(op):
    distiller = make_distiller(distillation_losses={"own": Loss(UNFIT[op])})
    found = check_tpu(distiller, batch())
    assert any(one.op == op for one in found), found
    source = next(one.source for one in found if one.op == op)
    first = line_of(UNFIT[op])
    name, line = source.split(":")
    assert name == "test_tpu_check.py" and first <= int(line) <= first + 3


def test_a_shape_that_is_not_fixed_is_named():
    found = check_tpu(make_distiller(**every_loss()), open_batch())
    assert {one.reason for one in found} == {"its shape is not known before the step runs"}
    assert any(one.shape.startswith("float32(None, ") for one in found)


def test_a_call_outside_the_program_is_named_with_its_line():
    distiller = make_distiller(distillation_losses={"own": Loss(outside)})
    found = check_tpu(distiller, batch())
    assert [one.reason for one in found] == ["it calls code outside the program"]
    assert re.match(rf"test_tpu_check.py:{line_of(outside) + 1} ", found[0].source)


def outside(x):
    return tf.reduce_sum(tf.linalg.qr(tf.matmul(x, x, transpose_a=True))[1])


@pytest.mark.parametrize("options", [{}, {"sequence_length": 24}])
def test_batches_of_one_length_pass(options, sample_set, vocabulary):
    student = build_student(
        "static_128", vocabulary=vocabulary, output_dim=sample_set.embedding_dim
    )
    distiller = make_distiller(student, FusedAdam(0.1), **every_loss())
    assert check_tpu(distiller, sample_set.batches(8, vocabulary, **options).element_spec)
    batches = sample_set.batches(8, vocabulary, **one_length(options))
    assert check_tpu(distiller, batches.element_spec) == []


def test_lazy_adam_is_named():
    found = check_tpu(make_distiller(optimizer=LazyAdam(0.1)), batch())
    assert found[0].op == "Unique" and found[0].source.startswith("optimizers.py:")
    assert "a TPU does not support this operation" in str(found[0])


@pytest.mark.parametrize("dtype", ["float32", "mixed_bfloat16"])
def test_the_usual_step_passes_and_trains_nothing(dtype):
    optimizer = FusedAdam(0.1, global_clipnorm=1.0)
    distiller = make_distiller(make_student(dtype=dtype), optimizer, **every_loss())
    before = distiller.get_weights()
    assert check_tpu(distiller, batch()) == []
    for one, other in zip(distiller.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    assert int(distiller.optimizer.iterations) == 0


def test_token_labels_pass():
    distiller = make_distiller(make_tagger(), distillation_losses={}, loss=TokenCrossEntropy())
    x, _ = batch()
    assert check_tpu(distiller, (x, {"label": tf.zeros((8, 4), tf.int32)})) == []


QUICK = {"alignment losses": "float32", "token losses": "bfloat16"}


def findings(vocabulary, name, precision):
    distiller = tpu_cases.build(vocabulary, precision, 16, **tpu_cases.CASES[name])
    return check_tpu(distiller, tpu_cases.batch_spec(64, 16))


@pytest.mark.parametrize("name, precision", QUICK.items())
def test_losses_of_the_package_pass(vocabulary, name, precision):
    assert findings(vocabulary, name, precision) == []


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", tpu_cases.CASES)
def test_every_training_step_of_the_package_passes(vocabulary, name, precision):
    assert findings(vocabulary, name, precision) == []
