"""Plans as data, and errors for plans that do not fit a model."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from contracts import assert_one_line

import kdkeras.growth
from kdkeras.errors import InputError
from kdkeras.growth import (
    AdvancedKnowledge,
    Chain,
    ComposeTokens,
    GrowthPlan,
    HyperCloning,
    IdentityBlocks,
    Interleaving,
    Net2Wider,
    Stacking,
    ZeroPadding,
    grow,
)
from kdkeras.growth.operators import DepthOperator, WidthOperator
from kdkeras.students import StaticStudent, TransformerStudent


@pytest.fixture(scope="module")
def transformer():
    return TransformerStudent(30, 8, 2, 16, 2, 24)


@pytest.fixture(scope="module")
def table():
    return StaticStudent(30, 20, 16)


def test_a_plan_round_trips_through_json(vocabulary):
    plan = GrowthPlan(
        sizes={"hidden_dim": 64, "num_layers": 3},
        vocabulary=vocabulary,
        operators={"hidden_dim": HyperCloning(noise=0.2), "num_heads": ZeroPadding()},
        depth=IdentityBlocks(where="spread"),
        tokens=ComposeTokens(reduce="mean"),
        keeps_function=False,
        tolerance=1e-3,
        seed=4,
    )
    copy = GrowthPlan.from_dict(json.loads(json.dumps(plan.to_dict())), vocabulary)
    assert copy.to_dict() == plan.to_dict() and copy.vocabulary is vocabulary
    for name in ("operators", "depth", "tokens", "keeps_function", "tolerance", "seed"):
        assert getattr(copy, name) == getattr(plan, name) != getattr(GrowthPlan(), name)
    one = GrowthPlan(sizes={"num_layers": 3}, operators=Net2Wider(shares="unequal"))
    assert GrowthPlan.from_dict(one.to_dict()).operators == Net2Wider(shares="unequal")
    with pytest.raises(InputError) as error:
        GrowthPlan.from_dict(plan.to_dict())
    assert_one_line(str(error.value), "vocabulary", plan.vocabulary.fingerprint[:12])


@pytest.mark.parametrize("kind", [WidthOperator, DepthOperator])
def test_every_operator_round_trips_through_json(kind):
    for name in set(kind.known()) - {"Chain"}:
        made = kind.from_dict({"operator": name})
        assert type(made).__name__ == name and hasattr(kdkeras.growth, name)
        assert kind.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    pair = Chain(first=HyperCloning(noise=0.2), size=32, second=Net2Wider())
    assert WidthOperator.from_dict(json.loads(json.dumps(pair.to_dict()))) == pair
    assert {"MaskedGrowth", "MaskedLayers"} & set(kind.known())


def test_a_plan_from_json_gives_the_same_model(transformer):
    plan = GrowthPlan(sizes={"hidden_dim": 32, "intermediate_dim": 31}, seed=2)
    one, other = (
        grow(transformer, p).get_weights() for p in (plan, GrowthPlan.from_dict(plan.to_dict()))
    )
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)


TRANSFORMER = {
    "unknown_size": ({"sizes": {"width": 32}}, ["hidden_dim", "num_layers", "'width'"]),
    "size_of_another_class": (
        {"sizes": {"embedding_dim": 32}},
        ["The sizes of a TransformerStudent are ['hidden_dim'", "'embedding_dim'"],
    ),
    "unknown_axis": (
        {"operators": {"blocks": Net2Wider()}},
        ["'hidden_dim', 'num_heads', 'head_size', 'intermediate_dim'", "'blocks'"],
    ),
    "vocabulary_size": ({"sizes": {"vocabulary_size": 99}}, ["GrowthPlan(vocabulary=...)"]),
    "narrower": ({"sizes": {"hidden_dim": 8}}, ["`hidden_dim` must be at least 16", "8"]),
    "fewer_units": ({"sizes": {"intermediate_dim": 23}}, ["`intermediate_dim`", "24 or more"]),
    "fewer_layers": ({"sizes": {"num_layers": 1}}, ["`num_layers`", "2 or more"]),
    "fewer_heads": ({"sizes": {"hidden_dim": 32, "num_heads": 1}}, ["`num_heads`", "2 or more"]),
    "smaller_heads": ({"sizes": {"hidden_dim": 32, "num_heads": 8}}, ["`head_size`", "8 or more"]),
    "no_multiple": (
        {"sizes": {"hidden_dim": 40}},
        [
            "`hidden_dim` must be a multiple of 16",
            "hidden_dim=40",
            "Use 32, 48, 64, MaskedGrowth()",
        ],
    ),
    "heads_do_not_fill": (
        {"sizes": {"hidden_dim": 32, "num_heads": 3}},
        ["num_heads * head_size", "3 heads", "multiple of 3"],
    ),
    "head_size_does_not_fill": (
        {"sizes": {"hidden_dim": 32, "head_size": 12}},
        ["num_heads * head_size", "heads of 12", "multiple of 12", "36"],
    ),
    "operator_that_breaks": (
        {"sizes": {"hidden_dim": 32}, "operators": {"hidden_dim": ZeroPadding()}},
        ["ZeroPadding for `hidden_dim`", "HyperCloning()", "keeps_function=False"],
    ),
    "from_above_breaks": (
        {"sizes": {"intermediate_dim": 30}, "operators": AdvancedKnowledge()},
        ["AdvancedKnowledge for `intermediate_dim`", "Net2Wider()"],
    ),
    "stacking_breaks": (
        {"sizes": {"num_layers": 4}, "depth": Stacking()},
        ["depth=Stacking()", "IdentityBlocks()", "keeps_function=False"],
    ),
}


@pytest.mark.parametrize(("arguments", "parts"), TRANSFORMER.values(), ids=TRANSFORMER)
def test_plans_that_do_not_fit_a_transformer_are_refused(transformer, arguments, parts):
    with pytest.raises(InputError) as error:
        grow(transformer, GrowthPlan(**arguments))
    assert_one_line(str(error.value), *parts)


STATIC = {
    "no_layers": ({"sizes": {"hidden_dim": 32}}, ["has no `hidden_dim`", "Add num_layers"]),
    "unknown_size": ({"sizes": {"dim": 32}}, ["The sizes of a StaticStudent are ['embedding_dim'"]),
    "narrower": ({"sizes": {"embedding_dim": 8}}, ["`embedding_dim` must be at least 16"]),
    "too_narrow_for_a_norm": (
        {"sizes": {"num_layers": 1, "hidden_dim": 16, "num_heads": 4}},
        ["`hidden_dim` must be at least 17", "hidden_dim=16", "Use 20, 24, 28 with 4 heads"],
    ),
    "heads_do_not_fill": (
        {"sizes": {"num_layers": 1, "hidden_dim": 20, "num_heads": 3}},
        ["num_heads * head_size", "num_heads=3"],
    ),
    "stacking": (
        {"sizes": {"num_layers": 1}, "depth": Stacking()},
        ["identities at first", "depth=Stacking()"],
    ),
}


@pytest.mark.parametrize(("arguments", "parts"), STATIC.values(), ids=STATIC)
def test_plans_that_do_not_fit_a_table_are_refused(table, arguments, parts):
    with pytest.raises(InputError) as error:
        grow(table, GrowthPlan(**arguments))
    assert_one_line(str(error.value), *parts)


BAD_PLANS = {
    "zero": ({"sizes": {"hidden_dim": 0}}, ["positive integer", "hidden_dim=0"]),
    "fraction": ({"sizes": {"hidden_dim": 32.0}}, ["positive integer", "hidden_dim=32.0"]),
    "truth": ({"sizes": {"num_layers": True}}, ["positive integer", "num_layers=True"]),
    "depth_for_width": (
        {"operators": Stacking()},
        ["`operators` must be", "'HyperCloning'"],
    ),
    "width_for_depth": ({"depth": Net2Wider()}, ["`depth` must be one of", "'Stacking'"]),
    "text_for_operator": ({"operators": {"hidden_dim": "tile"}}, ["`operators`", "'tile'"]),
    "tokens": (
        {"tokens": Net2Wider()},
        ["one of ['AlignTokens', 'ComposeTokens']"],
    ),
}


@pytest.mark.parametrize(("arguments", "parts"), BAD_PLANS.values(), ids=BAD_PLANS)
def test_invalid_plans_are_refused_by_the_constructor(arguments, parts):
    with pytest.raises(InputError) as error:
        GrowthPlan(**arguments)
    assert_one_line(str(error.value), *parts)


def test_other_models_are_refused():
    with pytest.raises(InputError) as error:
        grow(keras.Sequential(), GrowthPlan())
    known = "'StaticStudent', 'TransformerStudent', 'BertBackbone'"
    assert_one_line(str(error.value), known, "Sequential")


@pytest.mark.parametrize(
    ("probe", "parts"),
    [
        ("Tom", ["list of texts", "'Tom'"]),
        ([], ["list of texts", "real sentences"]),
        (["Tom"], ["without one", "token ids"]),
        ({"token_ids": [[1]]}, ["'padding_mask'", "['token_ids']"]),
    ],
)
def test_invalid_probes_are_refused(transformer, probe, parts):
    with pytest.raises(InputError) as error:
        grow(transformer, GrowthPlan(sizes={"num_layers": 3}), probe=probe)
    assert_one_line(str(error.value), *parts)


def test_layers_cannot_be_copied_from_a_model_without_layers():
    for depth in (Stacking(), Interleaving()):
        with pytest.raises(InputError) as error:
            depth.layers(0, 2)
        assert_one_line(str(error.value), "0 layers", "IdentityBlocks()")
    with pytest.raises(InputError) as error:
        IdentityBlocks(where="below")
    assert_one_line(str(error.value), "'below'", "'top'")
