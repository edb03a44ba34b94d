"""Which weight uses which axis on which side: models described as data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import keras

from kdkeras.errors import InputError
from kdkeras.growth.axis_map import ELEMENTWISE, LINEAR, NORMALIZED, ROWS
from kdkeras.students import (
    MaskedTransformerStudent,
    StaticStudent,
    Student,
    TransformerStudent,
)

__all__ = ["ModelAxes", "Side", "describe", "reads", "variables", "writes"]

MAIN, QUERY, KEY, MEAN = "main", "query", "key", "mean"


@dataclass(frozen=True)
class Side:
    """How one dimension of a weight belongs to an axis.

    Attributes:
        axis: Name of the axis.
        reads: True where the weight reads the axis (`F @ W`), false where it
            writes it (`W @ E`).
        role: `"query"` and `"key"` where two weights are multiplied with each
            other over the axis; `"mean"` where rows of a table are averaged
            even if those of others are added; else `"main"`.
    """

    axis: str
    reads: bool
    role: str = MAIN


def reads(axis: str, role: str = MAIN) -> Side:
    """A dimension that reads an axis."""
    return Side(axis, reads=True, role=role)


def writes(axis: str, role: str = MAIN) -> Side:
    """A dimension that writes an axis."""
    return Side(axis, reads=False, role=role)


Piece = tuple[Side | None, ...]
Pieces = tuple[Piece, ...]
"""The dimensions of a weight, None for one that does not grow; several pieces side by side."""


@dataclass(frozen=True, kw_only=True)
class ModelAxes:
    """A class of models: its axes, and what each weight does with them.

    Attributes:
        kinds: What stands between writers and readers of each axis, by name.
        weights: Dimensions of the weights outside the layers, by path.
        layer_weights: Dimensions of the weights of a layer, by path in it.
        layers: Attribute that holds the layers.
        entry_norm: Path of the norm before the first layer.
        inner_norms: Norms inside a layer but the last.
        last_norm: The norm that gives a layer's output.
        silenced: Parts of a layer that are 0 in an identity.
    """

    kinds: Mapping[str, str]
    weights: Mapping[str, Pieces]
    layer_weights: Mapping[str, Pieces] = field(default_factory=dict)
    layers: str = ""
    entry_norm: str = ""
    inner_norms: tuple[str, ...] = ()
    last_norm: str = ""
    silenced: tuple[str, ...] = ()


HIDDEN, HEADS, HEAD_SIZE, INTERMEDIATE = "hidden_dim", "num_heads", "head_size", "intermediate_dim"
EMBEDDING, VOCABULARY = "embedding_dim", "vocabulary_size"
LAYERS = "num_layers"


def _norm(path: str) -> dict[str, Pieces]:
    return {f"{path}.{name}": ((writes(HIDDEN),),) for name in ("gamma", "beta")}


def _dense(path: str, source: Piece, target: Piece) -> dict[str, Pieces]:
    return {f"{path}.kernel": ((*source, *target),), f"{path}.bias": (target,)}


def _heads(role: str) -> Piece:
    return writes(HEADS, role), writes(HEAD_SIZE, role)


STATIC = ModelAxes(
    kinds={EMBEDDING: LINEAR, VOCABULARY: ROWS},
    weights={
        "token_embedding.table": ((reads(VOCABULARY), writes(EMBEDDING)),),
        "token_weight.table": ((reads(VOCABULARY, MEAN), None),),
        **_dense("projection", (reads(EMBEDDING),), (None,)),
    },
)

TRANSFORMER = ModelAxes(
    kinds={
        HIDDEN: NORMALIZED,
        HEADS: ELEMENTWISE,
        HEAD_SIZE: LINEAR,
        INTERMEDIATE: ELEMENTWISE,
        VOCABULARY: ROWS,
    },
    weights={
        "token_embedding.table": ((reads(VOCABULARY), writes(HIDDEN)),),
        "token_weight.table": ((reads(VOCABULARY, MEAN), None),),
        "position_embedding.position_embeddings": ((None, writes(HIDDEN)),),
        **_norm("embedding_norm"),
        **_dense("projection", (reads(HIDDEN),), (None,)),
    },
    layer_weights={
        "qkv_dense.kernel": tuple((reads(HIDDEN), *_heads(r)) for r in (QUERY, KEY, MAIN)),
        "qkv_dense.bias": tuple(_heads(r) for r in (QUERY, KEY, MAIN)),
        **_dense("output_dense", (reads(HEADS), reads(HEAD_SIZE)), (writes(HIDDEN),)),
        **_norm("attention_norm"),
        **_dense("intermediate_dense", (reads(HIDDEN),), (writes(INTERMEDIATE),)),
        **_dense("feedforward_dense", (reads(INTERMEDIATE),), (writes(HIDDEN),)),
        **_norm("output_norm"),
    },
    layers="blocks",
    entry_norm="embedding_norm",
    inner_norms=("attention_norm",),
    last_norm="output_norm",
    silenced=("output_dense", "feedforward_dense"),
)

MODELS: dict[type[Student], ModelAxes] = {StaticStudent: STATIC, TransformerStudent: TRANSFORMER}


def describe(model: Any) -> ModelAxes:
    """Returns the description of a model's class.

    Raises:
        InputError: If the class is not described.
    """
    # A masked student has the weights of a plain one; what grows refuses it.
    made = TransformerStudent if isinstance(model, MaskedTransformerStudent) else type(model)
    axes = MODELS.get(made)
    if axes is None:
        raise InputError(
            f"The model must be one of {[c.__name__ for c in MODELS]}. "
            f"Received: {type(model).__name__}. Grow a kdkeras student."
        )
    return axes


def variables(model: Any, axes: ModelAxes) -> dict[str, keras.Variable]:
    """Returns the weights by path; those of layer 3 as `blocks.3.qkv_dense.kernel`."""
    found = {
        path: attrgetter(path)(model)
        for path in axes.weights
        if getattr(model, path.split(".")[0], None) is not None
    }
    for number, layer in enumerate(getattr(model, axes.layers) if axes.layers else ()):
        for path in axes.layer_weights:
            found[f"{axes.layers}.{number}.{path}"] = attrgetter(path)(layer)
    return found
