"""A step in chunks equals the step on the whole batch."""

from __future__ import annotations

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from contracts import assert_one_line
from small_models import (
    CLASSES,
    OUTPUT_DIM,
    VOCABULARY_SIZE,
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
from test_step import oracle_loss

import kdkeras
from kdkeras.distillation.chunks import Chunks, run_in_chunks
from kdkeras.distillation.forward_pass import random_states
from kdkeras.errors import InputError
from kdkeras.losses import (
    BarlowTwins,
    CorrelationDistillation,
    EmbeddingDistillation,
    KerasLoss,
    Matryoshka,
    MatryoshkaAlignment,
    QueueContrast,
    QueueDistillation,
    RelationalAngle,
    RelationalDistance,
    SimilarityDistillation,
    SimilarityMatrix,
    SoftTargets,
    SpreadOut,
    TranslationRanking,
    VICReg,
)
from kdkeras.optimizers import FusedAdam, LazyAdam
from kdkeras.students import StaticStudent, TransformerStudent

ROWS, SIZE = 7, 3  # Three chunks of three rows; two rows are padding.


class Unrolled(keras.Model):
    """Runs the chunks of a Distiller one after the other in one recorded pass.

    An ordinary step with it uses the dropout masks of a step in chunks.
    """

    def __init__(self, student, size=SIZE):
        super().__init__(dtype=student.dtype_policy)
        self.student, self.size, self.built = student, size, True

    def call(self, inputs, training=None):
        rows = next(iter(inputs.values())).shape[0]
        sides = 2 if training else 1
        pairs = rows // sides
        number = -(-pairs // self.size)
        size = -(-pairs // number)
        order = np.arange(number * size) % pairs
        outputs = []
        for chunk in np.split(order, number):
            both = np.concatenate([chunk + side * pairs for side in range(sides)])
            given = {name: tf.gather(x, both) for name, x in inputs.items()}
            outputs.append(self.student(given, training=training))

        def joined(*chunks):
            halves = zip(*(tf.split(chunk, sides) for chunk in chunks), strict=True)
            return tf.concat([tf.concat(half, 0)[:pairs] for half in halves], 0)

        return keras.tree.map_structure(joined, *outputs)


def transformer(**arguments):
    return randomized(TransformerStudent(VOCABULARY_SIZE, 3, 1, 4, 2, 6, dropout=0.3, **arguments))


def step(chunked, make=transformer, optimizer=None, weighted=False, live=False, **arguments):
    """One step of plain gradient descent; returns weights, logs and random states."""
    keras.utils.set_random_seed(1)
    student = make()
    x, y = pairs(rows=ROWS)
    y["logits"] = np.random.default_rng(2).normal(size=(ROWS, CLASSES)).astype("float32")
    if arguments.get("loss") is not None:
        y["label"] = np.arange(ROWS) % CLASSES
    if live:
        arguments["teacher"], y = make_two_heads(seed=5, dropout=0.5), None
    distiller = make_distiller(
        student if chunked else Unrolled(student),
        optimizer() if optimizer else keras.optimizers.SGD(1.0),
        chunk_size=SIZE if chunked else None,
        **{**every_loss(), **arguments},
    )
    # The same initial weights of the losses for both.
    for layer in distiller.distillation_losses.values():
        randomized(layer)
    sample_weight = np.linspace(0.5, 2.0, ROWS, dtype="float32") if weighted else None
    before = weights(distiller)
    logs = fit(distiller, x, y, batch_size=ROWS, sample_weight=sample_weight)
    states = [state.numpy() for state in random_states(student)]
    return before, weights(distiller), logs, states


def assert_one_step(atol=1e-5, **arguments):
    before, expected, logs, states = step(False, **arguments)
    _, found, found_logs, found_states = step(True, **arguments)
    assert max(np.abs(a - b).max() for a, b in zip(before, expected, strict=True)) > 1e-2
    assert_equal_weights(found, expected, atol=atol)
    assert sorted(logs) == sorted(found_logs)
    for name, values in logs.items():
        assert found_logs[name] == pytest.approx(values, rel=1e-5, abs=1e-5)
    for one, other in zip(found_states, states, strict=True):
        np.testing.assert_array_equal(one, other)


DISTILLATION = {
    "cosine": EmbeddingDistillation,
    "mse": lambda: EmbeddingDistillation("mse"),
    "projection": lambda: EmbeddingDistillation("mse", projection=(3, OUTPUT_DIM)),
    "similarity": lambda: SimilarityDistillation(0.5, exclude_self=True),
    "similarity matrix": SimilarityMatrix,
    "relational distance": RelationalDistance,
    "relational angle": RelationalAngle,
    "soft targets": lambda: SoftTargets(2.0, standardize=True, target="embedding"),
    "correlation": lambda: CorrelationDistillation(target="embedding"),
    "queue": lambda: QueueDistillation(OUTPUT_DIM, 6, 0.5),
    "queue contrast": lambda: QueueContrast(OUTPUT_DIM, 6, 0.5),
    "prefixes": lambda: Matryoshka(SimilarityDistillation(0.5), [2, OUTPUT_DIM]),
    "a loss of Keras": lambda: KerasLoss("huber"),
}
ALIGNMENT = {
    "spread out": SpreadOut,
    "variance and covariance": lambda: VICReg(1.0, 1.0, 1.0),
    "cross-correlation": lambda: BarlowTwins(0.5),
    "aligned prefixes": lambda: MatryoshkaAlignment(TranslationRanking(scale=3.0), [2, 3]),
    "guided ranking": lambda: TranslationRanking(scale=3.0, guide_margin=0.6),
}


def made(table):
    return {name: make() for name, make in table.items()}


def test_every_loss_that_compares_rows_is_among_them():
    chunked = {type(loss) for loss in made({**DISTILLATION, **ALIGNMENT}).values()}
    public = [getattr(kdkeras.losses, name) for name in kdkeras.losses.__all__]
    comparing = {x for x in public if getattr(x, "compares_rows", False) is True}
    assert len(comparing) >= 8 and comparing <= chunked


def test_every_loss_sees_the_whole_batch():
    """The logs have one value per loss, and the step has the sum of all gradients."""
    losses = {"distillation_losses": made(DISTILLATION), "alignment_losses": made(ALIGNMENT)}
    # Different weights, so that the gradients of two losses cannot be exchanged.
    losses["loss_weights"] = {
        name: 0.05 * (i + 1) for i, name in enumerate([*DISTILLATION, *ALIGNMENT])
    }
    assert_one_step(make=two_heads, weighted=True, **losses)


def two_heads():
    return make_two_heads(dropout=0.3, regularizer=keras.regularizers.L2(0.1))


def of_logits():
    losses = {"embedding": EmbeddingDistillation(), "classes": SoftTargets(2.0)}
    return {"distillation_losses": losses, "loss_weights": {"classes": 2.0}}


TASK = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
STEPS = {
    "task and regularizer": {"make": two_heads, "weighted": True, "loss": TASK, **of_logits()},
    "live teacher": {"make": two_heads, "live": True, **of_logits()},
    "compiled": {"make": two_heads, "jit_compile": True},
    "eager": {"run_eagerly": True},
    "FusedAdam": {"make": make_student, "optimizer": lambda: FusedAdam(0.05, epsilon=1e-3)},
    "LazyAdam": {"make": make_student, "optimizer": lambda: LazyAdam(0.05, epsilon=1e-3)},
    # No loss reads the second head, so it has no gradient and must not decay.
    "no gradient": {
        "make": make_two_heads,
        "optimizer": lambda: keras.optimizers.AdamW(0.05, weight_decay=0.5, epsilon=1e-3),
    },
    # Eager, because the optimization of a whole graph changes the rounding.
    "bfloat16": {"make": lambda: transformer(dtype="mixed_bfloat16"), "run_eagerly": True},
    "float16": {"make": lambda: make_student(dtype="mixed_float16")},
}


@pytest.mark.parametrize("case", STEPS)
def test_a_step_in_chunks_equals_the_step_on_the_whole_batch(case):
    assert_one_step(**STEPS[case])


def test_a_step_equals_the_formula():
    x, y = pairs(rows=5)
    distiller = make_distiller(chunk_size=2, **every_loss())
    before = [w.astype("float64") for w in weights(distiller.student)]
    fit(distiller, x, y, batch_size=5)
    slopes = oracles.gradient(lambda p: oracle_loss(p, x, y), before)
    expected = [w - 0.5 * slope for w, slope in zip(before, slopes, strict=True)]
    assert_equal_weights(weights(distiller.student), expected, atol=2e-5)


def test_one_side_alone():
    x, y = pairs(rows=ROWS)
    x = {name: value for name, value in x.items() if not name.startswith("translation")}
    one, other = (make_distiller(chunk_size=size) for size in (None, SIZE))
    for distiller in (one, other):
        fit(distiller, x, y, batch_size=ROWS)
    assert_equal_weights(weights(other.student), weights(one.student), atol=1e-6)


def test_a_batch_of_one_chunk_is_not_split():
    results = []
    for chunk_size in (None, 4):
        keras.utils.set_random_seed(0)
        distiller = make_distiller(transformer(), chunk_size=chunk_size, **every_loss())
        fit(distiller, *pairs(rows=8), epochs=2)
        results.append(weights(distiller.student))
    assert_equal_weights(*results)


def test_batches_of_unknown_size():
    data = tf.data.Dataset.from_tensor_slices(pairs(rows=11)).batch(5)  # The last has one row.
    distillers = [make_distiller(chunk_size=size) for size in (None, 2)]
    logs = [distiller.fit(data, epochs=2, verbose=0).history for distiller in distillers]
    assert_equal_weights(*(weights(distiller.student) for distiller in distillers), atol=1e-6)
    assert logs[1]["loss"] == pytest.approx(logs[0]["loss"], abs=1e-6)


class Counting(StaticStudent):
    """Records the number of rows in every call."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.read = []

    def call(self, inputs, training=None):
        if tf.executing_eagerly():
            self.read.append(int(inputs["token_ids"].shape[0]))
        return super().call(inputs, training)


def test_every_chunk_runs_twice_and_has_at_most_chunk_size_rows():
    student, teacher = (Counting(VOCABULARY_SIZE, OUTPUT_DIM, 2) for _ in range(2))
    distiller = make_distiller(student, teacher=teacher, chunk_size=SIZE, run_eagerly=True)
    x, _ = pairs(rows=ROWS)
    fit(distiller, x, None, batch_size=ROWS)
    assert student.read == [2 * SIZE] * 3 * 2
    assert teacher.read == [SIZE] * 3
    student.read.clear()
    distiller.evaluate(x, batch_size=ROWS, verbose=0)
    assert student.read == [2 * SIZE] * 3


def nodes(graph):
    inner = [f.graph for f in graph._functions.values() if getattr(f, "graph", None) is not None]
    return len(graph.get_operations()) + sum(nodes(one) for one in inner)


def test_the_graph_does_not_grow_with_the_chunks():
    sizes = []
    for rows in (4, 64):
        distiller = make_distiller(transformer(), FusedAdam(0.1), chunk_size=2, **every_loss())
        distiller.optimizer.build(distiller.trainable_weights)
        batch = tf.nest.map_structure(tf.constant, pairs(rows=rows))
        traced = tf.function(distiller.train_step, autograph=False).get_concrete_function(batch)
        sizes.append(nodes(traced.graph))
    assert sizes[0] == sizes[1]


@pytest.mark.parametrize(("rows", "size", "expected"), [(7, 3, (3, 3, 2)), (9, 4, (3, 3, 0))])
@pytest.mark.parametrize("known", [True, False])
def test_chunks_have_equal_size_and_minimum_number(rows, size, expected, known):
    @tf.function(input_signature=[tf.TensorSpec([rows if known else None, 2])])
    def cut(x):
        chunks = Chunks({"x": x}, size)
        parts = [chunks.get(i)["x"] for i in range(expected[0])]
        again = chunks.join(tf.stack(parts))
        return chunks.number, chunks.size, chunks.padding, again, chunks.split_gradients(x)

    x = np.arange(2.0 * rows, dtype="float32").reshape(rows, 2) + 1
    *numbers, again, cut_gradient = cut(x)
    assert tuple(int(n) for n in numbers) == expected
    np.testing.assert_array_equal(again, x)
    flat = np.asarray(cut_gradient).reshape(-1, 2)
    np.testing.assert_array_equal(flat[:rows], x)
    assert not flat[rows:].any()


def test_a_replica_without_rows_has_one_empty_chunk():
    found = run_in_chunks(tf.function(lambda x: 2 * x), tf.zeros((0, 3)), 2)
    assert found.shape == (0, 3)


def test_chunk_size_is_saved_with_the_distiller(tmp_path):
    distiller = make_distiller(transformer(), FusedAdam(0.1), chunk_size=2, **every_loss())
    fit(distiller, *pairs(rows=8))
    distiller.save(tmp_path / "distiller.keras")
    fit(distiller, *pairs(rows=8))
    again = kdkeras.load(tmp_path / "distiller.keras")
    assert again.chunk_size == 2
    fit(again, *pairs(rows=8))
    assert_equal_weights(weights(again.student), weights(distiller.student))


class BatchCounter(keras.layers.Layer):
    """Counts its calls in a variable."""

    def build(self, shape):
        self.count = self.add_weight(shape=(), trainable=False, name="count")

    def call(self, x):
        self.count.assign_add(1.0)
        return x


def with_layer(layer):
    ids = keras.Input((None,), dtype="int32", name="token_ids")
    mask = keras.Input((None,), dtype="int32", name="padding_mask")
    vector = make_student()({"token_ids": ids, "padding_mask": mask})
    return keras.Model({"token_ids": ids, "padding_mask": mask}, layer(vector))


def refused(*parts, student=None, **arguments):
    with pytest.raises(InputError) as error:
        distiller = make_distiller(student, **{"chunk_size": 2, **arguments})
        fit(distiller, *pairs())
    assert_one_line(str(error.value), *parts)


def test_a_chunk_size_of_zero_is_refused():
    refused("`chunk_size` must be at least 1", "chunk_size=0", chunk_size=0)


def test_micro_batches_with_chunks_are_refused():
    refused("chunk_size=2, micro_batches=2", "should see the whole batch", micro_batches=2)


def test_batch_normalization_is_refused():
    student = with_layer(keras.layers.BatchNormalization(name="norm"))
    refused("'norm', a BatchNormalization", "LayerNormalization", student=student)


def test_a_layer_that_updates_a_variable_is_refused():
    refused("may not update variables", "Assign", student=with_layer(BatchCounter()))


@pytest.mark.parametrize("way", ["fit", "evaluate"])
def test_activity_regularizers_are_refused(way):
    student = with_layer(keras.layers.Dense(3, activity_regularizer="l2"))
    distiller = make_distiller(student, chunk_size=2)
    with pytest.raises(InputError) as error:
        getattr(distiller, way)(*pairs(), verbose=0)
    assert_one_line(str(error.value), "activity_regularizer", "micro_batches")


def test_a_missing_output_is_named():
    losses = {"distillation_losses": {"pull": EmbeddingDistillation(target="pooled")}}
    distiller = make_distiller(make_two_heads(), chunk_size=2, **losses)
    x, y = pairs()
    with pytest.raises(InputError) as error:
        fit(distiller, x, {"pooled": y["embedding"]})
    assert_one_line(str(error.value), "['embedding', 'logits']", "'pooled'")
