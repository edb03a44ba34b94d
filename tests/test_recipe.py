"""The recipe: immutable, checked, and the same after JSON."""

from __future__ import annotations

import dataclasses
import json

import pytest
from contracts import assert_one_line

from kdkeras import InputError, Recipe

OTHER = Recipe(
    student="mini",
    sequence_length=32,
    table_rank=8,
    start="random",
    vocabulary_kind="wordpiece",
    vocabulary_size=500,
    vocabulary_temperature=1.0,
    loss_weights={"embedding": 1.0, "ranking": 0.25},
    decay={"ranking": 0.5},
    dims=(16, 4),
    keep_axes=True,
    batch_size=16,
    epochs=1,
    steps=40,
    language_temperature=0.0,
    optimizer="lazy_adam",
    learning_rate=1e-3,
    warmup=0,
    mixed_precision="bfloat16",
    jit_compile=True,
    quantization="int4",
    quantization_start=0.5,
    seed=7,
)


def test_other_has_no_default():
    defaults = Recipe()
    same = [
        f.name
        for f in dataclasses.fields(Recipe)
        if getattr(OTHER, f.name) == getattr(defaults, f.name)
    ]
    assert same == []


@pytest.mark.parametrize("recipe", [Recipe(), OTHER], ids=["default", "other"])
def test_recipe_survives_its_file(recipe, tmp_path):
    recipe.save(tmp_path / "recipe.json")
    assert Recipe.load(tmp_path / "recipe.json") == recipe
    assert json.loads((tmp_path / "recipe.json").read_text()) == recipe.to_dict()


def test_recipe_is_immutable():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Recipe().epochs = 4


BAD = {
    "student": "",
    "sequence_length": 0,
    "table_rank": 0,
    "start": "middle",
    "vocabulary_kind": "bytes",
    "vocabulary_size": 1.5,
    "vocabulary_temperature": 2,
    "loss_weights": {"hinge": 1.0},
    "decay": {"ranking": 2.0},
    "dims": (8, 8),
    "keep_axes": "yes",
    "batch_size": True,
    "epochs": -1,
    "steps": "all",
    "language_temperature": -0.1,
    "optimizer": "sgd",
    "learning_rate": float("nan"),
    "warmup": -1,
    "mixed_precision": "float64",
    "jit_compile": 1,
    "quantization": "int2",
    "quantization_start": 1.1,
    "seed": -1,
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Recipe)])
def test_value_out_of_range_is_refused_by_name(name):
    with pytest.raises(InputError) as error:
        Recipe(**{name: BAD[name]})
    assert_one_line(str(error.value), f"`{name}` must be", f"{name}={BAD[name]!r}", "default")


@pytest.mark.parametrize("weights", [{}, {"embedding": 0.0}])
def test_recipe_needs_a_loss_that_counts(weights):
    with pytest.raises(InputError, match="not all 0"):
        Recipe(loss_weights=weights)


def test_recipe_copies_the_weights_it_is_given():
    weights = {"embedding": 1.0}
    recipe = Recipe(loss_weights=weights)
    weights["embedding"] = -5.0
    assert recipe.loss_weights == {"embedding": 1.0}


def test_decay_of_a_loss_without_weight_is_refused():
    with pytest.raises(InputError, match="'ranking'. The losses with a weight are"):
        Recipe(loss_weights={"embedding": 1.0}, decay={"ranking": 0.5})


FILES = {
    "not JSON": ("{", "readable JSON file"),
    "a list": ("[]", "a JSON object"),
    "unknown name": ('{"epoch": 3}', "'epoch'"),
    "wrong type": ('{"epochs": "3"}', "`epochs` must be an integer"),
}


@pytest.mark.parametrize("case", FILES)
def test_file_that_is_no_recipe_is_refused(case, tmp_path):
    content, part = FILES[case]
    (tmp_path / "recipe.json").write_text(content)
    with pytest.raises(InputError) as error:
        Recipe.load(tmp_path / "recipe.json")
    assert_one_line(str(error.value), part)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="No such file"):
        Recipe.load(tmp_path / "recipe.json")
