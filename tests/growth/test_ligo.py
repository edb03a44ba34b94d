"""LiGO: the weights that learned factors give, and that learning lowers the loss."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from contracts import assert_one_line

from kdkeras.distillation import Distiller
from kdkeras.errors import InputError
from kdkeras.growth import (
    AdvancedKnowledge,
    GrowthPlan,
    IdentityBlocks,
    Interleaving,
    LearnedOperators,
    Net2Wider,
    Stacking,
    grow,
    learn_operators,
)
from kdkeras.growth.axes import describe, model_values, variables
from kdkeras.losses import EmbeddingDistillation, SimilarityDistillation
from kdkeras.students import StaticStudent, TransformerStudent


def plan(depth=None, **sizes):
    return GrowthPlan(sizes=sizes, depth=depth or Stacking(), keeps_function=False)


@pytest.fixture(scope="module")
def lesson_batches(lessons):
    batch, targets = lessons
    rows = [slice(32 * i, 32 * (i + 1)) for i in range(8)]
    return [({k: v[r] for k, v in batch.items()}, targets[r]) for r in rows]


# ---- the products -------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "sizes"),
    [
        (Stacking(), {"hidden_dim": 24, "intermediate_dim": 17, "num_layers": 4}),
        (IdentityBlocks(), {"hidden_dim": 12, "num_heads": 3, "num_layers": 4}),
        pytest.param(
            *(Interleaving(), {"hidden_dim": 16, "num_heads": 2, "num_layers": 3}),
            marks=pytest.mark.slow,
        ),
        pytest.param(IdentityBlocks(where="spread"), {"num_layers": 5}, marks=pytest.mark.slow),
    ],
    ids=["stacking", "identity", "interleaving", "spread"],
)
def test_learning_starts_at_the_plans_operators(exact, depth, sizes):
    start = LearnedOperators(exact, plan(depth, **sizes)).grow()
    for path, expected in model_values(grow(exact, plan(depth, **sizes))).items():
        np.testing.assert_allclose(model_values(start)[path], expected, atol=1e-12, err_msg=path)


def product(old, f, m, name, number):
    """Computes a weight of the larger model by the formula."""
    layers = []
    for k in range(2):
        w = old[f"blocks.{k}.{name}"]
        inner = f["intermediate_dim.E"], f["intermediate_dim.F"]
        heads = {
            role: np.kron(f[f"num_heads{role}.E"], np.eye(4)) for role in (".query", ".key", "")
        }
        back = np.kron(f["num_heads.F"], np.eye(4))
        reads, writes = f["hidden_dim.F"], f["hidden_dim.E"]
        if name.startswith("qkv"):
            parts = np.split(w, 3, axis=-1)
            parts = [p @ e for p, e in zip(parts, heads.values(), strict=True)]
            parts = [reads @ p if w.ndim == 2 else p for p in parts]
            layers.append(np.concatenate(parts, axis=-1))
        elif name == "output_dense.kernel":
            layers.append(back @ w @ writes)
        elif name == "intermediate_dense.kernel":
            layers.append(reads @ w @ inner[0])
        elif name == "intermediate_dense.bias":
            layers.append(w @ inner[0])
        elif name == "feedforward_dense.kernel":
            layers.append(inner[1] @ w @ writes)
        else:  # biases and norms that write the width
            layers.append(w @ writes)
    return m[name][number, 0] * layers[0] + m[name][number, 1] * layers[1]


def test_the_larger_weights_are_mixtures_of_products_around_the_old_ones(exact):
    operators = LearnedOperators(exact, plan(hidden_dim=12, intermediate_dim=17, num_layers=3))
    generator = np.random.default_rng(0)
    for variable in operators.trainable_variables:
        variable.assign(generator.normal(size=variable.shape))
    f, m, old = operators.factors(), operators.mixing(), model_values(exact)
    # One factor per axis and side for all layers; queries and keys have their own for heads.
    assert {name: matrix.shape for name, matrix in f.items()} == {
        "hidden_dim.E": (8, 12),
        "hidden_dim.F": (12, 8),
        "num_heads.query.E": (2, 3),
        "num_heads.key.E": (2, 3),
        "num_heads.E": (2, 3),
        "num_heads.F": (3, 2),
        "intermediate_dim.E": (12, 17),
        "intermediate_dim.F": (17, 12),
    }
    assert len(m) == 12 and all(rows.shape == (3, 2) for rows in m.values())
    found = model_values(operators.grow())
    for path, array in found.items():
        if path.startswith("blocks."):
            _, number, name = path.split(".", 2)
            expected = product(old, f, m, name, int(number))
        elif path == "projection.kernel":
            expected = f["hidden_dim.F"] @ old[path]
        elif path == "projection.bias":
            expected = old[path]
        else:  # table, positions and the norm write the width
            expected = old[path] @ f["hidden_dim.E"]
        np.testing.assert_allclose(array, expected, atol=1e-10, err_msg=path)


def test_the_larger_student_has_plain_weights_and_computes_with_them(exact):
    operators = LearnedOperators(exact, plan(hidden_dim=12, num_layers=3))
    for variable in operators.trainable_variables:
        variable.assign_add(np.random.default_rng(0).normal(0, 0.1, variable.shape))
    ids = np.random.default_rng(1).integers(40, size=(6, 7)).astype("int32")
    batch = {"token_ids": ids, "padding_mask": np.ones_like(ids)}
    target, values = operators.target, operators.values()
    pairs = [(v, values[path]) for path, v in variables(target, describe(exact)).items()]
    with keras.StatelessScope(state_mapping=pairs):
        inside = target(batch)
    grown = operators.grow()
    assert type(grown) is TransformerStudent and len(grown.weights) == len(target.weights)
    np.testing.assert_allclose(inside, grown(batch), atol=1e-12)


# ---- learning -----------------------------------------------------------


def mean_loss(student, batches):
    return np.mean([keras.losses.MeanSquaredError()(y, student(x)) for x, y in batches])


def test_learning_lowers_the_loss_on_other_sentences(trained, texts, lesson_batches):
    recipe = plan(hidden_dim=24, num_heads=3, intermediate_dim=30, num_layers=3)
    before = trained.get_weights()
    loss = keras.losses.MeanSquaredError()
    operators = learn_operators(trained, recipe, lesson_batches[:4], loss, 16, 3e-3)
    assert len(operators.losses) == 16
    grown, copied = operators.grow(probe=texts), grow(trained, recipe, probe=texts)
    assert operators.losses[0] == pytest.approx(float(mean_loss(copied, lesson_batches[:1])), 1e-4)
    others = lesson_batches[4:]
    # Below the loss of the copies that learning starts at, and of the small student.
    starts = mean_loss(copied, others), mean_loss(trained, others)
    assert mean_loss(grown, others) < 0.995 * min(starts)
    for one, other in zip(before, trained.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    certificate = grown.certificate
    assert not certificate.keeps_function and certificate.maximum_error > 1e-3
    assert not any(step.keeps_function for step in certificate.steps)
    assert {step.operator for step in certificate.steps} >= {
        "LiGO from Net2Wider",
        "LiGO from Stacking",
    }
    assert (certificate.parameters_after, certificate.probe) == (grown.count_params(), "texts")


def test_the_loss_of_a_distiller_is_used(trained, lesson_batches):
    losses = {"embedding": EmbeddingDistillation(), "similarity": SimilarityDistillation()}
    distiller = Distiller(
        trained, distillation_losses=losses, loss_weights={"embedding": 2.0, "similarity": 0.25}
    )
    distiller.compile("adam")
    batches = [(x, {"embedding": y}) for x, y in lesson_batches]
    kept = GrowthPlan(sizes={"hidden_dim": 32, "intermediate_dim": 30}, keeps_function=False)
    operators = learn_operators(trained, kept, batches[:1], distiller, steps=4, learning_rate=3e-3)
    # The start is function-preserving, so the first loss is the small student's.
    dataset = tf.data.Dataset.from_tensors(batches[0])
    small = distiller.evaluate(dataset, verbose=0, return_dict=True)
    assert operators.losses[0] == pytest.approx(small["loss"], rel=1e-4)
    assert operators.losses[-1] < 0.995 * operators.losses[0]
    assert distiller.optimizer.iterations == 0


@pytest.mark.slow
def test_sample_weights_count(trained, lesson_batches):
    x, y = lesson_batches[0]
    weights_ = np.linspace(0, 2, len(y)).astype("float32")
    loss = keras.losses.MeanSquaredError(reduction="none")
    operators = learn_operators(trained, plan(intermediate_dim=30), [(x, y, weights_)], loss, 1)
    each = np.square(np.asarray(trained(x)) - y).mean(axis=1)
    assert operators.losses[0] == pytest.approx((each * weights_).mean(), rel=1e-4)


def test_a_static_students_factors_are_learned(trained_static, texts, lesson_batches):
    recipe = plan(embedding_dim=24)
    loss = keras.losses.MeanSquaredError()
    operators = learn_operators(trained_static, recipe, lesson_batches[:4], loss, 12, 1e-2)
    grown = operators.grow(probe=texts)
    f, old = operators.factors(), model_values(trained_static)
    table = old["token_embedding.table"] @ f["embedding_dim.E"]
    np.testing.assert_allclose(grown.token_embedding.table, table, atol=1e-6)
    kernel = f["embedding_dim.F"] @ old["projection.kernel"]
    np.testing.assert_allclose(grown.projection.kernel, kernel, atol=1e-6)
    others = lesson_batches[4:]
    assert mean_loss(grown, others) < 0.99 * mean_loss(trained_static, others)


# ---- errors ----------------------------------------------------

BAD = {
    "claims_to_keep": (
        GrowthPlan(sizes={"hidden_dim": 32}),
        ["do not preserve the function", "keeps_function=False"],
    ),
    "nothing_larger": (plan(), ["something to learn", "without a larger size"]),
    "from_above": (
        GrowthPlan(
            sizes={"intermediate_dim": 30}, operators=AdvancedKnowledge(), keeps_function=False
        ),
        ["the layer above", "Net2Wider()"],
    ),
}


@pytest.mark.parametrize(("refused", "parts"), BAD.values(), ids=BAD)
def test_plans_without_learnable_factors_are_refused(exact, refused, parts):
    with pytest.raises(InputError) as error:
        LearnedOperators(exact, refused)
    assert_one_line(str(error.value), *parts)


def test_new_vocabularies_and_first_layers_are_refused(trained, trained_static, vocabulary):
    new = GrowthPlan(vocabulary=vocabulary, operators=Net2Wider(), keeps_function=False)
    for student, refused, part in (
        (trained, new, "Grow the vocabulary first"),
        (trained_static, plan(num_layers=2), "num_layers=2. Add the first layers with `grow`"),
    ):
        with pytest.raises(InputError) as error:
            LearnedOperators(student, refused)
        assert_one_line(str(error.value), part)


def test_invalid_arguments_of_learning_are_refused():
    student = StaticStudent(40, 5, 4)
    ids = np.ones((1, 2), "int32")
    batch = ({"token_ids": ids, "padding_mask": ids}, np.ones((1, 5)))
    good = {"data": [batch], "loss": keras.losses.MeanSquaredError(), "steps": 2}
    for arguments, part in (
        ({"steps": 0}, "steps=0"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"loss": "mse"}, "'mse'"),
        ({"data": []}, "ended after 0 batches"),
        ({"data": iter([batch])}, "ended after 1 batches"),
    ):
        with pytest.raises(InputError) as error:
            learn_operators(student, plan(embedding_dim=6), **{**good, **arguments})
        assert_one_line(str(error.value), part)
