"""Quantization-aware training: its start, its effect, and the student afterwards."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts import assert_one_line
from small_models import (
    assert_equal_weights,
    every_loss,
    fit,
    make_distiller,
    make_student,
    make_two_heads,
    pairs,
    randomized,
    weights,
)
from test_backup import StopAt

from kdkeras.distillation import Distiller
from kdkeras.errors import InputError
from kdkeras.evaluation.metrics import teacher_match
from kdkeras.recipe import Recipe
from kdkeras.students import TransformerStudent, build_student, initialize_from_targets
from kdkeras.training import Backup, QuantizationAwareTraining
from kdkeras.training.preparation import compiled_distiller

ROWS, STEPS = 16, 4
WAYS = {
    "plain": {},
    "jit": {"jit_compile": True},
    "eager": {"run_eagerly": True},
    "micro-batches": {"micro_batches": 2},
    "chunks": {"chunk_size": 3},
}


def make_transformer():
    return randomized(TransformerStudent(7, 3, 1, 4, 2, 6, dropout=0.0))


def trained(start_step, student=None, **way):
    """A distiller after `STEPS` steps, with fake quantization from `start_step` on."""
    distiller = make_distiller(student or make_student(), **way, **every_loss())
    callbacks = [] if start_step is None else [QuantizationAwareTraining("int4", start_step)]
    fit(distiller, *pairs(rows=ROWS), callbacks=callbacks)
    return distiller


def part(rows):
    x, y = pairs(rows=ROWS)
    return {k: v[rows] for k, v in x.items()}, {k: v[rows] for k, v in y.items()}


def each_way():
    """Ways to run; only two of them are quick tests."""
    for name, way in WAYS.items():
        for make in (make_student, make_transformer):
            quick = (name, make) in [("plain", make), ("chunks", make_student)]
            marks = [] if quick else [pytest.mark.slow]
            yield pytest.param(make, way, marks=marks, id=f"{make.__name__}, {name}")


@pytest.mark.parametrize(("make", "way"), each_way())
def test_from_start_step_on_it_trains_the_quantized_student(make, way):
    by_hand = make_distiller(make(), **way, **every_loss())
    fit(by_hand, *part(slice(0, 8)))
    by_hand.student.fake_quantization = "int4"
    by_hand.train_function = None
    fit(by_hand, *part(slice(8, 16)))
    switched = trained(2, make(), **way)
    assert_equal_weights(weights(switched.student), weights(by_hand.student), atol=1e-6)
    without = weights(trained(None, make(), **way).student)
    assert max(np.abs(a - b).max() for a, b in zip(without, weights(switched), strict=True)) > 1e-4


def test_logs_after_the_switch_are_those_of_the_quantized_student():
    distiller = make_distiller(**every_loss())
    x, y = part(slice(0, 4))
    distiller.student.fake_quantization = "int4"
    rounded = distiller.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    distiller.student.fake_quantization = None
    distiller.test_function = None
    exact = distiller.evaluate(x, y, verbose=0, return_dict=True)["loss"]
    history = fit(distiller, x, y, callbacks=[QuantizationAwareTraining("int4", 0)])
    assert history["loss"][0] == pytest.approx(rounded, rel=1e-5)
    assert abs(rounded - exact) > 1e-4


def test_with_steps_per_execution_the_next_execution_switches():
    found = weights(trained(1, steps_per_execution=2).student)
    assert_equal_weights(found, weights(trained(2).student), atol=1e-6)


def test_a_loaded_training_switches_at_the_same_step(tmp_path):
    uninterrupted = trained(1)
    distiller = make_distiller(**every_loss())
    callback = QuantizationAwareTraining("int4", 1)
    fit(distiller, *part(slice(0, 8)), callbacks=[callback])
    distiller.save(tmp_path / "d.keras")
    loaded = keras.saving.load_model(tmp_path / "d.keras")
    fit(loaded, *part(slice(8, 16)), callbacks=[QuantizationAwareTraining("int4", 1)])
    assert_equal_weights(weights(loaded.student), weights(uninterrupted.student), atol=1e-6)


def test_a_backup_resumed_after_the_switch_continues_with_the_same_batches(tmp_path):
    def run(folder, *callbacks):
        keras.utils.set_random_seed(1)
        data = tf.data.Dataset.from_tensor_slices(pairs(rows=ROWS))
        data = data.shuffle(ROWS, seed=3, reshuffle_each_iteration=True).batch(4)
        distiller = make_distiller(optimizer=keras.optimizers.Adam(0.05), **every_loss())
        callbacks = [QuantizationAwareTraining("int4", 2), Backup(tmp_path / folder), *callbacks]
        return weights(distiller), distiller.fit(data, epochs=2, callbacks=callbacks, verbose=0)

    _, uninterrupted = run("uninterrupted")
    run("interrupted", StopAt(STEPS + 2))
    before, resumed = run("interrupted")
    assert_equal_weights(weights(resumed.model), weights(uninterrupted.model))
    assert np.abs(weights(resumed.model)[0] - before[0]).max() > 1e-2
    assert resumed.history["loss"] == uninterrupted.history["loss"][-1:]


def test_afterwards_the_student_is_its_float32_weights(tmp_path):
    student = trained(0).student
    assert student.fake_quantization is None
    student.save(tmp_path / "s.keras")
    loaded = keras.saving.load_model(tmp_path / "s.keras")
    assert loaded.fake_quantization is None
    assert loaded.get_config() == student.get_config() and "int4" not in str(student.get_config())
    for ours, theirs in zip(student.weights, loaded.weights, strict=True):
        assert theirs.dtype == "float32"
        np.testing.assert_array_equal(ours, theirs)
    x, _ = pairs()
    inputs = {k: x[f"source_{k}"] for k in ("token_ids", "padding_mask")}
    np.testing.assert_allclose(loaded(inputs), student(inputs), atol=1e-6)
    # The weights are not rounded.
    student.fake_quantization = "int4"
    assert np.abs(student(inputs) - loaded(inputs)).max() > 1e-4


@pytest.mark.parametrize("arguments", [("int4", -1), ("int4", 0.7), ("int2", 0), (None, 0)])
def test_unfit_arguments_are_refused(arguments):
    with pytest.raises(InputError, match="Received: ") as caught:
        QuantizationAwareTraining(*arguments)
    assert_one_line(str(caught.value))


@pytest.mark.parametrize("student", [make_two_heads])
def test_a_student_that_cannot_be_quantized_is_refused_before_a_step(student):
    distiller = make_distiller(student(), **every_loss())
    before = weights(distiller.student)
    with pytest.raises(InputError, match="needs a Distiller of a kdkeras student") as caught:
        fit(distiller, *pairs(), callbacks=[QuantizationAwareTraining("int4", 2)])
    assert_one_line(str(caught.value))
    assert_equal_weights(weights(distiller.student), before)


class Foreign(type(make_student())):
    """A student with a dense layer that has no fake quantization."""

    def _quantizable_layers(self):
        return [*super()._quantizable_layers(), keras.layers.Dense(2, name="head")]


def test_a_dense_layer_that_cannot_be_quantized_is_named():
    distiller = make_distiller(randomized(Foreign(7, 3, 2)), **every_loss())
    assert isinstance(distiller, Distiller)
    with pytest.raises(InputError, match="Received: 'head', a Dense. Make it a kdkeras") as caught:
        fit(distiller, *pairs(), callbacks=[QuantizationAwareTraining("int4", 2)])
    assert_one_line(str(caught.value))
    assert distiller.student.fake_quantization is None


@pytest.fixture
def embedded(sample_set):
    """Sentences of the bundled sample, and the teacher's vectors."""
    texts, vectors = [], []
    for group, vector in sample_set.records():
        texts += [group.source, *group.translations]
        vectors += [vector] * (1 + len(group.translations))
    chosen = np.random.default_rng(0).choice(len(texts), 6000, replace=False)
    return [texts[i] for i in chosen], np.array([vectors[i] for i in chosen])


@pytest.mark.slow
def test_it_improves_the_int4_student(sample_set, vocabulary, embedded):
    """The cosine to the teacher's embeddings, which is trained, is higher in int4."""
    batch, epochs = 256, 3
    found = {}
    for scheme in (None, "int4"):
        keras.utils.set_random_seed(0)
        student = build_student(
            "static_128",
            vocabulary=vocabulary,
            output_dim=sample_set.embedding_dim,
            normalize=sample_set.normalized,
            sequence_length=64,
        )
        batches = sample_set.batches(batch, vocabulary, sequence_length=64, seed=0)
        steps = epochs * int(batches.cardinality())
        recipe = Recipe(loss_weights={"embedding": 1.0}, dims=(), learning_rate=5e-3, warmup=100)
        distiller = compiled_distiller(student, recipe, steps)
        initialize_from_targets(student, sample_set)
        loop = [QuantizationAwareTraining(scheme, round(0.7 * steps))] if scheme else []
        distiller.fit(batches, epochs=epochs, callbacks=loop, verbose=0)
        for rounding in (None, "int4"):
            student.fake_quantization = rounding
            texts, vectors = embedded
            found[scheme, rounding] = teacher_match(student.encode(texts), vectors)
    assert found["int4", "int4"] > found[None, "int4"]
    lost = {scheme: found[scheme, None] - found[scheme, "int4"] for scheme in (None, "int4")}
    assert 0 < lost["int4"] < 0.8 * lost[None]
