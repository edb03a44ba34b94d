"""Losses on layers: cases worked by hand, pairs of layers, and refused inputs."""

from __future__ import annotations

from math import exp

import keras
import numpy as np
import oracles
import oracles_features
import pytest
import tensorflow as tf
from contracts import assert_one_line

from kdkeras.errors import InputError
from kdkeras.losses import (
    EmbeddingDistillation,
    HiddenStateDistillation,
    MiniLMv2,
    PerLayer,
    SimilarityDistillation,
)
from kdkeras.losses.hidden_states import evenly_spaced

MASK = np.array([[1, 1], [1, 0]])
NOTHING = np.zeros((2, 2, 2), "float32")


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def attention(query, key=NOTHING, value=NOTHING):
    return {"query": query, "key": key, "value": value}


# ---- hidden states ------------------------------------------------------


def test_hidden_states_by_hand():
    # Sentence 0: token 0 differs by (1, 3): (1 + 9) / 2 = 5; token 1 by (0, 2): 2. Mean 3.5.
    # Sentence 1: its one token by (2, 0): 2; the padding by (9, 9), which is ignored.
    student = np.array([[[1.0, 3.0], [0.0, 2.0]], [[2.0, 0.0], [9.0, 9.0]]])
    loss = HiddenStateDistillation({1: 1})
    values = loss([NOTHING, NOTHING], [NOTHING, student], padding_mask=MASK)
    np.testing.assert_allclose(values, [3.5, 2.0], rtol=1e-6)
    # The added pair of layers 0 is equal and halves the mean.
    both = HiddenStateDistillation({1: 1}, embedding_layer=True)
    values = both([NOTHING, NOTHING], [NOTHING, student], padding_mask=MASK)
    np.testing.assert_allclose(values, [1.75, 1.0], rtol=1e-6)


def test_projected_hidden_states_by_hand():
    # W = (1, 2) takes the student's 1 to (1, 2): against (0, 0) the mean of 1 and 4.
    loss = HiddenStateDistillation([(1, 1)], projection=(1, 2))
    loss.set_weights([np.array([[1.0, 2.0]])])
    student = np.ones((2, 2, 1), "float32")
    values = loss([NOTHING] * 2, [student] * 2, padding_mask=MASK)
    np.testing.assert_allclose(values, [2.5, 2.5], rtol=1e-6)


def test_gradient_of_the_projection_equals_central_differences():
    teacher, student = list(normal(3, 2, 2, 5)), list(normal(3, 2, 2, 3, seed=1))
    loss = HiddenStateDistillation(projection=(3, 5))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(loss(teacher, student, padding_mask=MASK))
    slope = tape.gradient(total, loss.trainable_weights[0].value)
    pairs = [(1, 1), (2, 2)]
    (expected,) = oracles.gradient(
        lambda w: oracles_features.hidden_states(teacher, student, MASK, pairs, w[0]).sum(),
        loss.get_weights(),
    )
    np.testing.assert_allclose(slope, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("student", "teacher", "pairs"),
    [
        (3, 6, [(1, 2), (2, 4), (3, 6)]),
        (1, 12, [(1, 12)]),
        (4, 6, [(1, 1), (2, 3), (3, 4), (4, 6)]),
        (2, 2, [(1, 1), (2, 2)]),
        (6, 3, [(2, 1), (4, 2), (6, 3)]),
    ],
)
def test_layers_are_paired_evenly_up_to_the_last(student, teacher, pairs):
    assert evenly_spaced(student, teacher) == pairs


@pytest.mark.parametrize(("num_student", "num_teacher"), [(1, 2), (2, 5), (5, 2)])
def test_default_pairs_include_the_last_layer_of_both(num_student, num_teacher):
    teacher, student = ([NOTHING] * (n + 1) for n in (num_teacher, num_student))
    loss = HiddenStateDistillation()
    np.testing.assert_array_equal(loss(teacher, student, padding_mask=MASK), 0)
    last = NOTHING + 1.0
    for sides in ((teacher[:-1] + [last], student), (teacher, student[:-1] + [last])):
        assert loss(*sides, padding_mask=MASK).numpy().min() > 0.1


def test_named_layers_are_paired_by_name():
    teacher = {"lower": NOTHING, "upper": normal(2, 2, 2)}
    loss = HiddenStateDistillation({-1: "upper"})
    expected = oracles_features.hidden_states([teacher["upper"]], [NOTHING], MASK, [(0, 0)])
    np.testing.assert_allclose(loss(teacher, [NOTHING], padding_mask=MASK), expected, rtol=1e-5)
    with pytest.raises(InputError) as error:
        HiddenStateDistillation({-1: "top"})(teacher, [NOTHING], padding_mask=MASK)
    assert_one_line(str(error.value), "'top'", "teacher has ['lower', 'upper']")
    with pytest.raises(InputError) as error:
        HiddenStateDistillation()(teacher, [NOTHING], padding_mask=MASK)
    assert_one_line(str(error.value), "layers=None", "Name the pairs")


STATES = [NOTHING] * 3
REFUSED_STATES = {
    "student's layer": ({3: 1}, STATES, STATES, "Received: 3", "student has [0, 1, 2]"),
    "teacher's layer": ({1: -4}, STATES, STATES, "Received: -4", "teacher has [0, 1, 2]"),
    "other tokens": (
        None,
        [np.zeros((2, 5, 2), "float32")] * 3,
        STATES,
        "(2, 5, 2)",
        "(2, 2, 2)",
        "Use the teacher's vocabulary for the student",
    ),
    "other widths": (
        None,
        [np.zeros((2, 2, 7), "float32")] * 3,
        STATES,
        "(2, 2, 7)",
        "(2, 2, 2)",
        "projection=(2, 7)",
    ),
    "one tensor": (None, NOTHING, STATES, "from the teacher", "(2, 2, 2)"),
    "pooled": (None, [np.zeros((2, 2), "float32")] * 3, STATES, "(2, 2)", "before pooling"),
}


@pytest.mark.parametrize("case", REFUSED_STATES)
def test_states_that_cannot_be_compared_are_refused(case):
    layers, teacher, student, *parts = REFUSED_STATES[case]
    with pytest.raises(InputError) as error:
        HiddenStateDistillation(layers)(teacher, student, padding_mask=MASK)
    assert_one_line(str(error.value), *parts)


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"layers": [1, 2]}, ("`layers` must be", "Received: 1", "{1: 2, 2: 4}")),
        ({"layers": ["ab"]}, ("`layers` must be", "'ab'")),
        ({"layers": {}}, ("at least one pair", "layers=[]")),
        ({"projection": (3,)}, ("`projection` must be", "projection=[3]")),
        ({"projection": (3, 0)}, ("`projection` must be", "projection=[3, 0]")),
    ],
)
def test_wrong_pairs_and_projections_are_refused(arguments, parts):
    with pytest.raises(InputError) as error:
        HiddenStateDistillation(**arguments)
    assert_one_line(str(error.value), *parts)


def test_projection_of_other_widths_is_refused():
    loss = HiddenStateDistillation(projection=(3, 2))
    with pytest.raises(InputError) as error:
        loss(STATES, STATES, padding_mask=MASK)
    assert_one_line(str(error.value), "projection=[3, 2]", "Use projection=(2, 2)")


# ---- attention ----------------------------------------------------------


def test_minilm_v2_by_hand():
    # One head of width 1 and two tokens. The teacher's queries 1 and 0: scores (1, 0) and (0, 0);
    # the student's 0 and 0: (0, 0) twice. Token 0: p = (e, 1)/(e+1), q = (1/2, 1/2):
    # KL = p0 * 1 - ln((e+1)/2); token 1 is equal. Mean over two tokens. Keys and values are equal.
    # Sentence 1 has one token, which is related only to itself: 0.
    teacher = np.array([[[1.0], [0.0]], [[1.0], [5.0]]])
    zero = np.zeros((2, 2, 1), "float32")
    loss = MiniLMv2(1)
    values = loss(
        [attention(teacher, zero, zero)], [attention(zero, zero, zero)], padding_mask=MASK
    )
    divergence = exp(1) / (exp(1) + 1) - np.log((exp(1) + 1) / 2)
    np.testing.assert_allclose(values, [divergence / 2, 0.0], atol=1e-6)
    # Queries, keys and values are summed.
    values = loss([attention(teacher, teacher, teacher)], [attention(zero, zero, zero)],
                  padding_mask=MASK)  # fmt: skip
    np.testing.assert_allclose(values, [3 * divergence / 2, 0.0], atol=1e-6)


def test_relations_divide_by_the_root_of_the_width():
    # Width 4: vectors of ones have the score 4 * 1 / sqrt(4) = 2.
    teacher = np.array([[[1.0] * 4, [0.0] * 4]])
    narrow = np.array([[[2.0**0.5], [0.0]]])
    values = MiniLMv2(1)(
        [attention(teacher, teacher, teacher)], [attention(narrow, narrow, narrow)],
        padding_mask=np.ones((1, 2)),
    )  # fmt: skip
    np.testing.assert_allclose(values, 0, atol=1e-6)


def test_widths_and_heads_may_differ():
    teacher = [attention(*normal(3, 2, 4, 12)), attention(*normal(3, 2, 4, 12, seed=1))]
    student = [attention(*normal(3, 2, 4, 6, seed=2))]
    mask = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
    expected = oracles_features.attention_relations(teacher, student, mask, 3, teacher_layer=0)
    values = MiniLMv2(3, teacher_layer=1)(teacher, student, padding_mask=mask)
    np.testing.assert_allclose(values, expected, rtol=1e-5)


REFUSED_ATTENTION = {
    "width of the student": (2, [attention(*normal(3, 2, 2, 4))], [attention(*normal(3, 2, 2, 3))],
                             "num_relation_heads=2", "(2, 2, 4)", "(2, 2, 3)", "the student's"),
    "width of the teacher": (2, [attention(*normal(3, 2, 2, 3))], [attention(*normal(3, 2, 2, 4))],
                             "num_relation_heads=2", "the teacher's", "divisor of both"),
    "other tokens": (1, [attention(*normal(3, 2, 5, 4))], [attention(*normal(3, 2, 2, 4))],
                     "(2, 5, 4)", "(2, 2, 4)", "the teacher's vocabulary"),
    "no parts": (1, [NOTHING], [NOTHING], "['query', 'key', 'value']", "a tensor"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_ATTENTION)
def test_attention_that_cannot_be_compared_is_refused(case):
    heads, teacher, student, *parts = REFUSED_ATTENTION[case]
    with pytest.raises(InputError) as error:
        MiniLMv2(heads)(teacher, student, padding_mask=MASK)
    assert_one_line(str(error.value), *parts)


def test_missing_attention_layer_is_refused():
    layers = [attention(NOTHING)] * 2
    for arguments, side in (({"student_layer": 0}, "student"), ({"teacher_layer": 3}, "teacher")):
        with pytest.raises(InputError) as error:
            MiniLMv2(1, **arguments)(layers, layers, padding_mask=MASK)
        assert_one_line(str(error.value), f"The {side} has [1, 2]")


def test_zero_relation_heads_are_refused():
    with pytest.raises(InputError) as error:
        MiniLMv2(0)
    assert_one_line(str(error.value), "num_relation_heads=0", "divisor")


# ---- every layer --------------------------------------------------------


def test_per_layer_by_hand():
    # Cosine distances 0 in layer 1 and 1 in layer 2; layer 0 is not read unless named.
    axes = np.eye(2, dtype="float32")
    layers = [-axes, axes, axes[::-1]]
    np.testing.assert_allclose(PerLayer(EmbeddingDistillation())(axes, layers), [0.5, 0.5])
    first = PerLayer(EmbeddingDistillation(), layers=[0, 1])
    np.testing.assert_allclose(first(axes, layers), [1.0, 1.0], rtol=1e-6)


def test_per_layer_trains_the_projection_of_its_inner_loss():
    loss = PerLayer(EmbeddingDistillation("mse", projection=(3, 5)))
    assert [w.shape for w in loss.trainable_weights] == [(3, 5)]
    teacher, student = normal(4, 5), list(normal(3, 4, 3))
    kernel = loss.get_weights()[0].astype(float)
    expected = np.mean([oracles.embedding_mse(teacher, s @ kernel) for s in student[1:]], axis=0)
    np.testing.assert_allclose(loss(teacher, student), expected, rtol=1e-5)


def test_per_layer_passes_on_what_its_inner_loss_needs():
    class Weighed(EmbeddingDistillation):
        needs = {"weight": "label"}

        def loss(self, teacher, student, weight):
            return weight * super().loss(teacher, student)

    loss = PerLayer(Weighed())
    assert loss.needs == {"weight": "label"} and loss.target == "embedding"
    axes = np.eye(2, dtype="float32")
    values = loss(axes, [axes, axes[::-1]], weight=np.array([2.0, 3.0]))
    np.testing.assert_allclose(values, [2.0, 3.0], rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "parts"),
    [
        (lambda: PerLayer(HiddenStateDistillation()), ("on embeddings", "hidden_state")),
        (lambda: PerLayer(PerLayer(SimilarityDistillation())), ("on embeddings", "per_layer")),
        (lambda: PerLayer(keras.losses.CosineSimilarity()), ("on embeddings", "cosine")),
        (lambda: PerLayer(EmbeddingDistillation(), layers=[]), ("at least one", "layers=[]")),
        (
            lambda: PerLayer(EmbeddingDistillation(), layers=[4])(NOTHING[0], [NOTHING[0]] * 3),
            ("Received: 4", "student has [0, 1, 2]"),
        ),
        (
            lambda: PerLayer(EmbeddingDistillation())(normal(2, 5), [NOTHING[0]] * 3),
            ("(2, 5)", "(2, 2)", "output_dim"),
        ),
    ],
)
def test_per_layer_refuses_losses_and_layers_that_do_not_fit(make, parts):
    with pytest.raises(InputError) as error:
        make()
    assert_one_line(str(error.value), *parts)


def test_embedding_projection_of_another_width_is_refused():
    with pytest.raises(InputError) as error:
        EmbeddingDistillation(projection=(3, 5))(normal(2, 5), normal(2, 4))
    assert_one_line(str(error.value), "projection=[3, 5]", "(2, 4)", "Use (4, 5)")
