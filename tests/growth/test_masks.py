"""Masked growth: the old function at mask 0, a plain student at mask 1."""

from __future__ import annotations

import keras
import numpy as np
import oracles_growth
import pytest
import tensorflow as tf
from contracts import assert_one_line
from growth_students import train

import kdkeras
from kdkeras.distillation import Distiller
from kdkeras.errors import InputError
from kdkeras.growth import (
    Chain,
    GrowthPlan,
    HyperCloning,
    LearnedOperators,
    MaskedGrowth,
    MaskedLayers,
    MaskSchedule,
    Net2Wider,
    grow,
    grow_optimizer,
    unmask,
)
from kdkeras.growth.axes import describe, model_values, variables
from kdkeras.losses import EmbeddingDistillation
from kdkeras.schedules import LinearWarmup
from kdkeras.students import MaskedTransformerStudent, TransformerStudent

# No size is a multiple of the old one: width 16 (2 heads of 8), 24 units, 2 layers.
ANY = {"hidden_dim": 27, "num_heads": 3, "intermediate_dim": 31, "num_layers": 3}
ALL = GrowthPlan(sizes=ANY, operators=MaskedGrowth(), depth=MaskedLayers())


def difference(one, other, batch):
    return np.abs(one(batch, training=False) - other(batch, training=False)).max()


# ---- the function -------------------------------------------------------

# Of the fixture `exact`: width 8 (2 heads of 4), feed-forward width 12, 2 layers.
CASES = {
    "hidden": ({"hidden_dim": 12}, {}, ["hidden_dim"]),
    "head_size": ({"hidden_dim": 14, "num_heads": 2}, {}, ["hidden_dim", "head_size"]),
    "heads_copied": (
        {"hidden_dim": 12},
        {"operators": {"hidden_dim": MaskedGrowth()}},
        ["hidden_dim"],
    ),
    "layers": ({"num_layers": 4}, {"depth": MaskedLayers()}, []),
    "units_among_clones": (
        {"hidden_dim": 16, "intermediate_dim": 19},
        {"operators": {"hidden_dim": HyperCloning(), "intermediate_dim": MaskedGrowth()}},
        ["intermediate_dim"],
    ),
}


IDS = np.random.default_rng(1).integers(40, size=(5, 7)).astype("int32")


def unscaled(model):
    """Embeddings before they are cast to float32 and normalized."""
    return np.asarray(model.projection(model.pooled({"token_ids": IDS, "padding_mask": IDS >= 0})))


@pytest.mark.parametrize(("sizes", "settings", "masked"), CASES.values(), ids=CASES)
def test_any_size_preserves_the_function_at_mask_0(exact, sizes, settings, masked):
    grown = grow(exact, GrowthPlan(sizes=sizes, **{"operators": MaskedGrowth(), **settings}))
    assert type(grown) is MaskedTransformerStudent and grown.mask == 0
    assert set(masked) <= set(grown.masked) and grown.certificate.keeps_function
    np.testing.assert_allclose(unscaled(grown), unscaled(exact), atol=1e-10)
    for name, size in sizes.items():
        assert getattr(grown, name) == size
    grown.mask = 0.5
    assert np.abs(unscaled(grown) - unscaled(exact)).max() > 1e-4


def test_masked_norm_by_hand():
    # Units 1 and 3, and a new unit 5 at mask 0.5: mean (1 + 3 + 2.5) / 2.5 = 2.6,
    # variance (1.6^2 + 0.4^2 + 2.4^2 / 2) / 2.5 = 2.24.
    from kdkeras.layers.masks import MaskedNorm, MaskLevel

    level = MaskLevel(dtype="float32")
    norm = MaskedNorm(level, 2, epsilon=0.0)
    norm.build((None, 3))
    level.level.assign(0.5)
    expected = np.array([-1.6, 0.4, 2.4 / 2]) / np.sqrt(2.24)
    np.testing.assert_allclose(norm(np.array([[1.0, 3.0, 5.0]]))[0], expected, rtol=1e-6)
    level.level.assign(0.0)  # mean 2, deviation 1
    np.testing.assert_allclose(norm(np.array([[1.0, 3.0, 5.0]]))[0], [-1, 1, 0], atol=1e-6)


@pytest.fixture(scope="module")
def exact_masked(exact):
    """Every size grown and masked."""
    sizes = {"hidden_dim": 15, "num_heads": 3, "intermediate_dim": 17, "num_layers": 4}
    plan = GrowthPlan(sizes=sizes, operators=MaskedGrowth(), depth=MaskedLayers())
    return grow(exact, plan)


@pytest.mark.parametrize("mask", [0.0, 0.25, 1.0])
def test_a_masked_student_computes_the_formulas(exact, exact_masked, mask):
    grown = exact_masked
    grown.mask = mask
    pairs = {
        "hidden": (8, 15),
        "heads": (2, 3),
        "head_size": (4, 5),
        "intermediate": (12, 17),
        "layers": (2, 4),
    }
    expected = [
        oracles_growth.masked_transformer(model_values(grown), 4, ids, pairs, mask) for ids in IDS
    ]
    np.testing.assert_allclose(unscaled(grown), expected, atol=1e-6)
    if mask == 0:
        assert grown.certificate.keeps_function
        np.testing.assert_allclose(unscaled(grown), unscaled(exact), atol=1e-10)
    if mask == 1:
        np.testing.assert_allclose(unscaled(grown), unscaled(unmask(grown)), atol=1e-10)


def test_old_weights_are_a_corner_of_the_new_ones_and_the_rest_is_random(exact):
    grown = model_values(
        grow(exact, GrowthPlan(sizes={"hidden_dim": 12}, operators=MaskedGrowth()))
    )
    old = model_values(exact)
    table = grown["token_embedding.table"]
    np.testing.assert_array_equal(table[:, :8], old["token_embedding.table"])
    assert table[:, 8:].std() == pytest.approx(old["token_embedding.table"].std(), rel=0.2)
    np.testing.assert_array_equal(grown["embedding_norm.gamma"][8:], 1)
    np.testing.assert_array_equal(grown["embedding_norm.beta"][8:], 0)
    for part in range(3):
        kernel = np.split(grown["blocks.1.qkv_dense.kernel"], 3, axis=1)[part]
        before = np.split(old["blocks.1.qkv_dense.kernel"], 3, axis=1)[part]
        np.testing.assert_array_equal(kernel[:8, :8], before)
        assert np.all(kernel[8:] != 0) and np.all(kernel[:, 8:] != 0)


# ---- training -----------------------------------------------------------


def gradients(model, lessons):
    batch, targets = lessons
    batch, targets = {k: v[:32] for k, v in batch.items()}, targets[:32]
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(batch, training=False) - targets))
    found = variables(model, describe(model))
    values = tape.gradient(loss, [v.value for v in found.values()])
    return {k: tf.convert_to_tensor(g).numpy() for k, g in zip(found, values, strict=True)}


def test_at_mask_0_only_old_weights_have_gradients_and_these_are_unchanged(trained, lessons):
    small, large = gradients(trained, lessons), gradients(grow(trained, ALL), lessons)
    table, kernel = "token_embedding.table", "blocks.1.feedforward_dense.kernel"
    scale = np.abs(small[kernel]).max()
    np.testing.assert_allclose(large[table][:, :16], small[table], atol=1e-6)
    np.testing.assert_allclose(large[kernel][:24, :16], small[kernel], atol=1e-4 * scale)
    for path, gradient in large.items():
        if path.startswith("blocks.2."):  # the masked layer
            np.testing.assert_array_equal(gradient, 0)
    assert not large[table][:, 16:].any() and not large[kernel][24:].any()
    assert not large[kernel][:, 16:].any()


@pytest.mark.slow
def test_moments_of_new_units_and_layers_are_0(trained, lessons):
    student = trained.clone()
    optimizer = train(student, lessons, 3)
    grown = grow(student, ALL)
    mapped = grow_optimizer(optimizer, student, grown, ALL)

    def moment(optimizer, variable):
        return optimizer._momentums[optimizer._get_variable_index(variable)].numpy()

    before = moment(optimizer, student.token_embedding.table)
    after = moment(mapped, grown.token_embedding.table)
    np.testing.assert_array_equal(after, np.pad(before, ((0, 0), (0, 11))))
    assert not moment(mapped, grown.blocks[2].qkv_dense.kernel).any()
    assert moment(mapped, grown.blocks[1].qkv_dense.kernel).any()


def test_a_schedule_moves_the_mask_to_1_and_the_student_becomes_plain(trained, lessons, tmp_path):
    grown = grow(trained, ALL)
    start = model_values(grown)
    batch, targets = lessons
    dataset = tf.data.Dataset.from_tensor_slices((batch, {"embedding": targets})).batch(32)
    distiller = Distiller(grown, distillation_losses={"embedding": EmbeddingDistillation()})
    distiller.compile(keras.optimizers.Adam(1e-3))
    levels = []
    watch = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: levels.append(grown.mask)
    )
    schedule = MaskSchedule(LinearWarmup(target=1.0, steps=8))
    distiller.fit(dataset.take(4), callbacks=[schedule, watch], verbose=0)
    np.testing.assert_allclose(levels, [0, 0.125, 0.25, 0.375])
    assert grown.mask == 0.5
    with pytest.raises(InputError) as error:
        unmask(grown)
    assert_one_line(str(error.value), "a mask at 0.5", "MaskSchedule")
    # A student that is saved at mask 0.5 is loaded at mask 0.5.
    grown.save(tmp_path / "half.keras")
    half = kdkeras.load(tmp_path / "half.keras")
    assert half.mask == 0.5 and half.masked == grown.masked and half.masked_layers == [2]
    np.testing.assert_array_equal(half(batch, training=False), grown(batch, training=False))
    distiller.fit(dataset, callbacks=[MaskSchedule.from_config(schedule.get_config())], verbose=0)
    assert grown.mask == 1.0
    plain = unmask(grown)
    assert type(plain) is TransformerStudent and plain.count_params() == grown.count_params() - 1
    assert difference(plain, grown, batch) < 1e-6
    # New units and layers have learned.
    now = model_values(plain)
    for path in ("token_embedding.table", "blocks.0.qkv_dense.kernel"):
        assert np.abs(now[path] - start[path])[..., 16:27].max() > 1e-4
    path = "blocks.2.output_dense.kernel"
    assert np.abs(now[path] - start[path]).max() > 1e-4


def test_a_student_without_a_projection_gets_one():
    student = TransformerStudent(40, 8, 1, 8, 2, 8, project=False, sequence_length=24)
    grown = grow(student, GrowthPlan(sizes={"hidden_dim": 12}, operators=MaskedGrowth()))
    batch = {"token_ids": IDS, "padding_mask": np.ones_like(IDS)}
    assert grown.project and difference(grown, student, batch) < 1e-6
    grown.mask = 1.0
    assert difference(unmask(grown), grown, batch) < 1e-6 < difference(grown, student, batch)


# ---- errors ----------------------------------------------------


def test_masked_students_and_wrong_masks_are_refused(trained, batch):
    grown = grow(trained, GrowthPlan(sizes={"num_layers": 3}, depth=MaskedLayers()))
    refused = {
        "mask=1.5": lambda: setattr(grown, "mask", 1.5),
        "a mask at 0. Train it until": lambda: grow(grown, GrowthPlan(sizes={"num_layers": 4})),
        "masks at 0. Train": lambda: grown.truncated(1),
        "a mask at 0. Continue": lambda: unmask(grown),
        "TransformerStudent. Use the student unchanged": lambda: unmask(trained),
    }
    for part, call in refused.items():
        with pytest.raises(InputError) as error:
            call()
        assert_one_line(str(error.value), part)


def test_masks_are_refused_where_they_are_not_supported(trained, trained_static):
    masked = {"operators": MaskedGrowth()}
    wide = GrowthPlan(sizes={"intermediate_dim": 30}, keeps_function=False, **masked)
    calls = {
        "ZeroPadding()": lambda: grow(
            trained_static, GrowthPlan(sizes={"embedding_dim": 20}, **masked)
        ),
        "MaskedGrowth in a Chain": lambda: Chain(first=Net2Wider(), size=30, second=MaskedGrowth()),
        "or masks them": lambda: LearnedOperators(trained, wide),
        "hidden_dim=16": lambda: MaskedTransformerStudent(
            9, 4, hidden_dim=16, masked={"hidden_dim": 16}
        ),
        "width=3": lambda: MaskedTransformerStudent(9, 4, masked={"width": 3}),
        "[4]": lambda: MaskedTransformerStudent(9, 4, num_layers=2, masked={}, masked_layers=[4]),
    }
    for part, call in calls.items():
        with pytest.raises(InputError) as error:
            call()
        assert_one_line(str(error.value), part)


def test_a_schedule_needs_a_masked_student(trained):
    copy = trained.clone()
    schedule = MaskSchedule(0.5)
    copy.compile("adam", "mse")
    schedule.set_model(copy)
    with pytest.raises(InputError) as error:
        schedule.on_train_begin()
    assert_one_line(str(error.value), "TransformerStudent", "MaskedGrowth()")
