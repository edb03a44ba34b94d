"""Adam's moments grow as gradients do."""

from __future__ import annotations

import keras
import numpy as np
import oracles_growth
import pytest
import tensorflow as tf
from contracts import assert_one_line

from kdkeras.errors import InputError
from kdkeras.growth import (
    AdvancedKnowledge,
    GrowthPlan,
    HyperCloning,
    LearnedOperators,
    Net2Wider,
    Stacking,
    ZeroPadding,
    grow,
    grow_optimizer,
)
from kdkeras.growth.axes import describe, variables
from kdkeras.optimizers import FusedAdam, LazyAdam
from kdkeras.students import StaticStudent

IDS = np.random.default_rng(1).integers(40, size=(6, 7)).astype("int32")
BATCH = {"token_ids": IDS, "padding_mask": np.ones_like(IDS)}
COPIES = HyperCloning(noise=0.0)


def gradients(model):
    """Gradients by path, of a function of the embeddings before normalization."""
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(tf.square(model.projection(model.pooled(BATCH))))
    paths = variables(model, describe(model))
    found = tape.gradient(loss, [v.value for v in paths.values()])
    return {p: tf.convert_to_tensor(g).numpy() for p, g in zip(paths, found, strict=True)}


def optimizer_of(model, first, second, make_optimizer=keras.optimizers.Adam):
    """Adam after three steps, with these moments."""
    optimizer = make_optimizer(0.03, beta_1=0.8)
    optimizer.build(model.trainable_variables)
    for path, variable in variables(model, describe(model)).items():
        index = optimizer._get_variable_index(variable)
        optimizer._momentums[index].assign(first[path])
        optimizer._velocities[index].assign(second[path])
    optimizer.iterations.assign(3)
    return optimizer


def moments(optimizer, model):
    found = variables(model, describe(model))
    indices = {path: optimizer._get_variable_index(v) for path, v in found.items()}
    return (
        {path: optimizer._momentums[i].value.numpy() for path, i in indices.items()},
        {path: optimizer._velocities[i].value.numpy() for path, i in indices.items()},
    )


@pytest.fixture(scope="module")
def slopes(exact):
    """Gradients of the small model."""
    return gradients(exact)


def squared(slopes):
    return {path: slope**2 for path, slope in slopes.items()}


@pytest.fixture(scope="module")
def adam(exact, slopes):
    return optimizer_of(exact, slopes, squared(slopes))


def grown_with_moments(plan, model, optimizer):
    """Gradients of the grown model, and the mapped first and second moments."""
    grown = grow(model, plan)
    mapped = grow_optimizer(optimizer, model, grown, plan)
    return gradients(grown), *moments(mapped, grown)


def test_the_gradient_of_a_doubled_model_is_the_formula(exact, adam, slopes):
    plan = GrowthPlan(sizes={"hidden_dim": 16, "intermediate_dim": 24}, operators=COPIES)
    true, first, second = grown_with_moments(plan, exact, adam)
    for path, expected in oracles_growth.doubled_gradient(slopes).items():
        np.testing.assert_allclose(true[path], expected, atol=1e-10, err_msg=path)
        np.testing.assert_allclose(first[path], expected, atol=1e-12, err_msg=path)
        np.testing.assert_allclose(second[path], expected**2, atol=1e-12, err_msg=path)


EXACT = {
    "copies_of_some": ({"intermediate_dim": 17}, Net2Wider(noise=0.0)),
    "unequal_behind_gelu": ({"intermediate_dim": 24}, Net2Wider(shares="unequal", noise=0.0)),
    "padding": ({"intermediate_dim": 17}, ZeroPadding(random_readers=False)),
    "heads": (
        {"hidden_dim": 24},
        {"hidden_dim": COPIES, "num_heads": Net2Wider(shares="unequal", noise=0.0)},
    ),
    "padded_heads": (
        {"hidden_dim": 16},
        {"hidden_dim": COPIES, "num_heads": ZeroPadding(random_readers=False)},
    ),
    "head_size": ({"head_size": 8}, COPIES),
    "padded_head_size": (
        {"head_size": 8},
        {"hidden_dim": COPIES, "head_size": ZeroPadding(random_readers=False)},
    ),
    "all": (
        {"hidden_dim": 24, "num_heads": 3, "intermediate_dim": 30},
        {"hidden_dim": COPIES, "num_heads": COPIES, "head_size": COPIES}
        | {"num_heads": Net2Wider(noise=0.0), "intermediate_dim": Net2Wider(noise=0.0)}
        | {"head_size": ZeroPadding(random_readers=False)},
    ),
}


SLOW = {"copies_of_some", "padding", "heads", "padded_heads", "head_size", "padded_head_size"}
CASES = [
    pytest.param(*case, id=name, marks=[pytest.mark.slow] * (name in SLOW))
    for name, case in EXACT.items()
]


@pytest.mark.parametrize(("sizes", "operators"), CASES)
def test_mapped_moments_are_the_grown_models_gradients(exact, adam, sizes, operators):
    plan = GrowthPlan(sizes=sizes, operators=operators)
    true, first, second = grown_with_moments(plan, exact, adam)
    for path, slope in true.items():
        np.testing.assert_allclose(first[path], slope, atol=1e-10, err_msg=path)
        np.testing.assert_allclose(second[path], slope**2, atol=1e-10, err_msg=path)


def test_noise_and_random_readers_are_exact_on_a_linear_axis(exact, adam):
    """The head size of the values is linear, so the first moment is the gradient."""
    plan = GrowthPlan(sizes={"head_size": 8}, operators={"hidden_dim": COPIES})
    true, first, _ = grown_with_moments(plan, exact, adam)
    for path, slope in true.items():
        np.testing.assert_allclose(first[path], slope, atol=1e-10, err_msg=path)


def test_noise_behind_a_norm_makes_the_moments_approximate(exact, adam):
    plan = GrowthPlan(sizes={"hidden_dim": 16}, operators=HyperCloning(noise=0.1))
    true, first, _ = grown_with_moments(plan, exact, adam)
    path = "token_embedding.table"
    error = np.abs(true[path] - first[path]).max() / np.abs(true[path]).max()
    assert 1e-6 < error < 0.3


def test_moments_of_new_layers_are_0_and_a_moved_norm_keeps_its_own(exact, adam, slopes):
    plan = GrowthPlan(sizes={"num_layers": 3})
    true, first, second = grown_with_moments(plan, exact, adam)
    for name in ("gamma", "beta"):
        old, moved = f"blocks.1.output_norm.{name}", f"blocks.2.output_norm.{name}"
        np.testing.assert_allclose(true[moved], slopes[old], atol=1e-10)
        np.testing.assert_array_equal(first[moved], slopes[old])
        np.testing.assert_array_equal(first[old], 0)
    new = [p for p in first if p.startswith("blocks.2.") and "output_norm" not in p]
    assert all(not first[path].any() and not second[path].any() for path in new)
    for name in ("output_dense.kernel", "feedforward_dense.kernel"):
        assert np.abs(true[f"blocks.2.{name}"]).max() > 1e-3  # they learn from the first step
    below = [p for p in first if not p.startswith("blocks.2.") and "1.output_norm" not in p]
    for path in below:
        np.testing.assert_allclose(true[path], slopes[path], atol=1e-10, err_msg=path)


def test_units_from_the_layer_above_keep_their_moments(exact, adam, slopes):
    plan = GrowthPlan(
        sizes={"intermediate_dim": 24}, operators=AdvancedKnowledge(), keeps_function=False
    )
    _, first, _ = grown_with_moments(plan, exact, adam)
    name = "intermediate_dense.bias"
    np.testing.assert_allclose(
        np.sort(first[f"blocks.0.{name}"][12:]), np.sort(slopes[f"blocks.1.{name}"] / 2)
    )


def test_moments_of_a_wider_table_are_its_gradients():
    model = StaticStudent(40, 5, 6, dtype="float64")
    generator = np.random.default_rng(3)
    model.set_weights([w + generator.normal(0, 0.4, w.shape) for w in model.get_weights()])
    slopes = gradients(model)
    optimizer = optimizer_of(model, slopes, squared(slopes))
    plan = GrowthPlan(sizes={"embedding_dim": 11})
    true, first, _ = grown_with_moments(plan, model, optimizer)
    for path, slope in true.items():
        np.testing.assert_allclose(first[path], slope, atol=1e-10, err_msg=path)


@pytest.mark.parametrize(
    "make_optimizer",
    [
        FusedAdam,
        pytest.param(LazyAdam, marks=pytest.mark.slow),
        pytest.param(keras.optimizers.Adam, marks=pytest.mark.slow),
    ],
)
def test_a_step_of_a_doubled_model_is_the_doubled_step(exact, slopes, make_optimizer):
    model = exact.clone()
    plan = GrowthPlan(sizes={"hidden_dim": 16, "intermediate_dim": 24}, operators=COPIES)
    grown = grow(model, plan)
    small = optimizer_of(model, slopes, squared(slopes), make_optimizer)
    large = grow_optimizer(small, model, grown, plan)
    assert type(large) is make_optimizer and large.beta_1 == 0.8
    assert int(large.iterations) == 3
    for optimizer, target in ((small, model), (large, grown)):
        found = gradients(target)
        paths = variables(target, describe(target))
        optimizer.apply([tf.constant(found[p]) for p in paths], list(paths.values()))
    # Weights that write a copy move as those that write the unit, because Adam is invariant
    # to the scale of gradients, except for its epsilon.
    moved, expected = (m.blocks[0].intermediate_dense.bias.value.numpy() for m in (grown, model))
    np.testing.assert_allclose(moved, np.tile(expected, 2), atol=1e-6)


@pytest.fixture
def learned(exact):
    """A plan, and factors that start at its operators."""
    plan = GrowthPlan(
        sizes={"hidden_dim": 16, "intermediate_dim": 17, "num_layers": 4},
        depth=Stacking(),
        keeps_function=False,
    )
    return plan, LearnedOperators(exact, plan)


def test_initial_learned_factors_map_moments_as_the_plan_does(exact, adam, learned):
    plan, operators = learned
    grown = grow(exact, plan)
    by_plan, by_factors = (
        moments(grow_optimizer(adam, exact, grown, how), grown) for how in (plan, operators)
    )
    for one, other in zip(by_plan, by_factors, strict=True):
        for path, value in one.items():
            np.testing.assert_allclose(other[path], value, atol=1e-12, err_msg=path)


def test_learned_factors_map_moments_of_writers_by_f_and_of_readers_by_e(
    exact, adam, slopes, learned
):
    _, operators = learned
    generator = np.random.default_rng(0)
    for variable in operators.trainable_variables:
        variable.assign(generator.normal(size=variable.shape))
    factors, grown = operators.factors(), operators.grow()
    first, second = moments(grow_optimizer(adam, exact, grown, operators), grown)
    e, f = factors["hidden_dim.E"], factors["intermediate_dim.F"]
    old = slopes["blocks.1.intermediate_dense.kernel"]  # reads the width, writes the units
    for layer in (1, 3):  # both are copies of it
        path = f"blocks.{layer}.intermediate_dense.kernel"
        np.testing.assert_allclose(first[path], e.T @ old @ f.T, atol=1e-10)
        np.testing.assert_allclose(second[path], (e.T**2) @ old**2 @ (f.T**2), atol=1e-10)


def refuse(match, call):
    with pytest.raises(InputError) as error:
        call()
    assert_one_line(str(error.value), *match)


def test_optimizers_that_cannot_be_mapped_are_refused(exact):
    model, plan = exact, GrowthPlan(sizes={"intermediate_dim": 24})
    grown = grow(model, plan)
    adam = keras.optimizers.Adam()
    adam.build(model.trainable_variables)
    for unfit in (keras.optimizers.SGD(), keras.optimizers.Adam(amsgrad=True)):
        refuse(
            ["Adam without amsgrad", type(unfit).__name__, "new optimizer"],
            lambda unfit=unfit: grow_optimizer(unfit, model, grown, plan),
        )
    refuse(
        ["must have trained the small model", "none of its weights"],
        lambda: grow_optimizer(keras.optimizers.Adam(), model, grown, plan),
    )
    refuse(
        ["must be the model that the plan makes", "(8, 24)", "(8, 30)"],
        lambda: grow_optimizer(adam, model, grown, GrowthPlan(sizes={"intermediate_dim": 30})),
    )
    table = StaticStudent(40, 5, 6)
    layers = GrowthPlan(sizes={"num_layers": 1, "hidden_dim": 8, "num_heads": 2})
    adam = keras.optimizers.Adam()
    adam.build(table.trainable_variables)
    refuse(
        ["must be products of the old ones", "TransformerStudent"],
        lambda: grow_optimizer(adam, table, grow(table, layers), layers),
    )
