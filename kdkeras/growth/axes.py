"""Which axes each weight of a supported model reads and writes, and its weights by path."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import keras_hub
import numpy as np

from kdkeras.errors import InputError
from kdkeras.growth.axis_map import ELEMENTWISE, LINEAR, NORMALIZED, ROWS
from kdkeras.students import MaskedTransformerStudent, StaticStudent, TransformerStudent

__all__ = [
    "ModelAxes",
    "Side",
    "Values",
    "assign_values",
    "describe",
    "is_backbone",
    "model_values",
    "variables",
]

HIDDEN, HEADS, HEAD_SIZE, INTERMEDIATE = "hidden_dim", "num_heads", "head_size", "intermediate_dim"
EMBEDDING, VOCABULARY = "embedding_dim", "vocabulary_size"
LAYERS = "num_layers"

MAIN, QUERY, KEY, MEAN = "main", "query", "key", "mean"

Values = dict[str, np.ndarray]
"""Arrays by path, float64."""


@dataclass(frozen=True)
class Side:
    """How one dimension of a weight belongs to an axis.

    Attributes:
        axis: Name of the axis.
        reads: True if the weight reads the axis (`F @ W`), false if it writes it
            (`W @ E`).
        role: `"query"` and `"key"` for weights whose outputs are multiplied with each
            other over the axis; `"mean"` for a table whose rows are averaged even if
            those of other tables are summed; else `"main"`.
    """

    axis: str
    reads: bool
    role: str = MAIN


Piece = tuple[Side | None, ...]
Pieces = tuple[Piece, ...]
"""Per concatenated part of a weight: its dimensions, None for one that does not grow."""


@dataclass(frozen=True, kw_only=True)
class ModelAxes:
    """The axes of a class of models, and how each weight uses them.

    Attributes:
        kinds: By axis, the function between the weights that write and read it.
        weights: Dimensions of the weights outside the layers, by path.
        layer_weights: Dimensions of the weights of a layer, by path inside the layer.
        stacks: Attributes of the model that hold layers. A layer has all or some of
            `layer_weights`.
        pre_norm: Whether each half of a layer starts with its norm. Otherwise it ends
            with it.
        entry_norm: Path of the norm before the first layer, unless `pre_norm`.
        inner_norms: Norms inside a layer except the last one.
        last_norm: The norm that gives a layer's output, unless `pre_norm`.
        silenced: Parts of a layer whose weights are 0 in an identity layer.
        scaled_scores: Whether attention scores are divided by the square root of the
            head size.
    """

    kinds: Mapping[str, str]
    weights: Mapping[str, Pieces]
    layer_weights: Mapping[str, Pieces] = field(default_factory=dict)
    stacks: tuple[str, ...] = ()
    pre_norm: bool = False
    entry_norm: str = ""
    inner_norms: tuple[str, ...] = ()
    last_norm: str = ""
    silenced: tuple[str, ...] = ()
    scaled_scores: bool = True


def reads(axis: str, role: str = MAIN) -> Side:
    """A dimension that reads an axis."""
    return Side(axis, reads=True, role=role)


def writes(axis: str, role: str = MAIN) -> Side:
    """A dimension that writes an axis."""
    return Side(axis, reads=False, role=role)


def norm(path: str) -> dict[str, Pieces]:
    """The weights of a layer norm over the hidden axis."""
    return {f"{path}.{name}": ((writes(HIDDEN),),) for name in ("gamma", "beta")}


def dense(path: str, source: Piece, target: Piece) -> dict[str, Pieces]:
    """Kernel and bias of a dense layer."""
    return {f"{path}.kernel": ((*source, *target),), f"{path}.bias": (target,)}


def heads(role: str = MAIN) -> Piece:
    """The dimensions of queries, keys or values: heads (the slower one) and their units."""
    return writes(HEADS, role), writes(HEAD_SIZE, role)


# ---- students ----

TRANSFORMER_KINDS = {
    HIDDEN: NORMALIZED,
    HEADS: ELEMENTWISE,
    HEAD_SIZE: LINEAR,
    INTERMEDIATE: ELEMENTWISE,
    VOCABULARY: ROWS,
}
_TOKENS = (reads(VOCABULARY), writes(HIDDEN))
_ATTENTION_OUTPUT = (reads(HEADS), reads(HEAD_SIZE))

STATIC = ModelAxes(
    kinds={EMBEDDING: LINEAR, VOCABULARY: ROWS},
    weights={
        "token_embedding.table": ((reads(VOCABULARY), writes(EMBEDDING)),),
        "token_weight.table": ((reads(VOCABULARY, MEAN), None),),
        **dense("projection", (reads(EMBEDDING),), (None,)),
    },
)

TRANSFORMER = ModelAxes(
    kinds=TRANSFORMER_KINDS,
    weights={
        "token_embedding.table": (_TOKENS,),
        "token_weight.table": ((reads(VOCABULARY, MEAN), None),),
        "position_embedding.position_embeddings": ((None, writes(HIDDEN)),),
        **norm("embedding_norm"),
        **dense("projection", (reads(HIDDEN),), (None,)),
    },
    layer_weights={
        "qkv_dense.kernel": tuple((reads(HIDDEN), *heads(r)) for r in (QUERY, KEY, MAIN)),
        "qkv_dense.bias": tuple(heads(r) for r in (QUERY, KEY, MAIN)),
        **dense("output_dense", _ATTENTION_OUTPUT, (writes(HIDDEN),)),
        **norm("attention_norm"),
        **dense("intermediate_dense", (reads(HIDDEN),), (writes(INTERMEDIATE),)),
        **dense("feedforward_dense", (reads(INTERMEDIATE),), (writes(HIDDEN),)),
        **norm("output_norm"),
    },
    stacks=("blocks",),
    entry_norm="embedding_norm",
    inner_norms=("attention_norm",),
    last_norm="output_norm",
    silenced=("output_dense", "feedforward_dense"),
)


# ---- backbones of `keras_hub.layers.TransformerEncoder`, normalized after each half ----

_SELF_ATTENTION = "_self_attention_layer"


def _encoder(weights: dict[str, Pieces]) -> ModelAxes:
    return ModelAxes(
        kinds=TRANSFORMER_KINDS,
        weights={**weights, **norm("embeddings_layer_norm")},
        layer_weights={
            **dense(f"{_SELF_ATTENTION}._query_dense", (reads(HIDDEN),), heads(QUERY)),
            **dense(f"{_SELF_ATTENTION}._key_dense", (reads(HIDDEN),), heads(KEY)),
            **dense(f"{_SELF_ATTENTION}._value_dense", (reads(HIDDEN),), heads(MAIN)),
            **dense(f"{_SELF_ATTENTION}._output_dense", _ATTENTION_OUTPUT, (writes(HIDDEN),)),
            **norm("_self_attention_layer_norm"),
            **dense("_feedforward_intermediate_dense", (reads(HIDDEN),), (writes(INTERMEDIATE),)),
            **dense("_feedforward_output_dense", (reads(INTERMEDIATE),), (writes(HIDDEN),)),
            **norm("_feedforward_layer_norm"),
        },
        stacks=("transformer_layers",),
        entry_norm="embeddings_layer_norm",
        inner_norms=("_self_attention_layer_norm",),
        last_norm="_feedforward_layer_norm",
        silenced=(f"{_SELF_ATTENTION}._output_dense", "_feedforward_output_dense"),
    )


BERT = _encoder(
    {
        "token_embedding.embeddings": (_TOKENS,),
        "position_embedding.position_embeddings": ((None, writes(HIDDEN)),),
        "segment_embedding.embeddings": ((None, writes(HIDDEN)),),
        # tanh is applied to each unit separately, so copied hidden units give copied outputs.
        **dense("pooled_dense", (reads(HIDDEN),), (writes(HIDDEN),)),
    }
)

ROBERTA = _encoder(
    {
        "embeddings.token_embedding.embeddings": (_TOKENS,),
        "embeddings.position_embedding.position_embeddings": ((None, writes(HIDDEN)),),
    }
)


# ---- T5: an RMS norm before each part of a layer ----


def _t5_attention(name: str) -> dict[str, Pieces]:
    return {
        f"{name}.query_projector.kernel": ((reads(HIDDEN), *heads(QUERY)),),
        f"{name}.key_projector.kernel": ((reads(HIDDEN), *heads(KEY)),),
        f"{name}.value_projector.kernel": ((reads(HIDDEN), *heads(MAIN)),),
        f"{name}.output_projector.kernel": ((*_ATTENTION_OUTPUT, writes(HIDDEN)),),
        f"{name}_layer_norm.weight": ((writes(HIDDEN),),),
    }


_T5_STACKS = ("encoder_transformer_layers", "decoder_transformer_layers")

T5 = ModelAxes(
    kinds=TRANSFORMER_KINDS,
    weights={
        "token_embedding.embeddings": (_TOKENS,),
        # Present only if it is not tied to the table above.
        "token_embedding.reverse_embeddings": ((reads(HIDDEN), reads(VOCABULARY)),),
        # All layers share the first layer's position bias: one number per bucket and head.
        **{
            f"{stack}.0.self_attention.relative_attention_bias": ((None, writes(HEADS, QUERY)),)
            for stack in _T5_STACKS
        },
        "encoder_layer_norm.weight": ((writes(HIDDEN),),),
        "decoder_layer_norm.weight": ((writes(HIDDEN),),),
    },
    layer_weights={
        **_t5_attention("self_attention"),
        **_t5_attention("cross_attention"),
        "input_projector.kernel": ((reads(HIDDEN), writes(INTERMEDIATE)),),
        "gate_projector.kernel": ((reads(HIDDEN), writes(INTERMEDIATE)),),
        "output_projector.kernel": ((reads(INTERMEDIATE), writes(HIDDEN)),),
        "layer_norm.weight": ((writes(HIDDEN),),),
    },
    stacks=_T5_STACKS,
    pre_norm=True,
    silenced=(
        "self_attention.output_projector",
        "cross_attention.output_projector",
        "output_projector",
    ),
    scaled_scores=False,
)


# ---- models ----

_BACKBONES: dict[type[keras.Model], ModelAxes] = {
    keras_hub.models.BertBackbone: BERT,
    keras_hub.models.DistilBertBackbone: ROBERTA,
    keras_hub.models.RobertaBackbone: ROBERTA,
    keras_hub.models.XLMRobertaBackbone: ROBERTA,
    keras_hub.models.T5Backbone: T5,
}
_MODELS: dict[type[keras.Model], ModelAxes] = {
    StaticStudent: STATIC,
    TransformerStudent: TRANSFORMER,
    **_BACKBONES,
}


def describe(model: Any) -> ModelAxes:
    """Returns the axes of a model's class.

    Raises:
        InputError: If the class is not supported.
    """
    # A masked student has the weights of a plain one.
    made = TransformerStudent if isinstance(model, MaskedTransformerStudent) else type(model)
    axes = _MODELS.get(made)
    if axes is None:
        raise InputError(
            f"The model must be one of {[c.__name__ for c in _MODELS]}. "
            f"Received: {type(model).__name__}. Use a kdkeras student or one of these backbones."
        )
    return axes


def is_backbone(model: Any) -> bool:
    """Returns whether a model is a supported backbone of KerasHub."""
    return type(model) in _BACKBONES


def variables(model: Any, axes: ModelAxes) -> dict[str, keras.Variable]:
    """Returns the weights by path, e.g. `blocks.3.qkv_dense.kernel`.

    Optional weights that the model does not have, such as a projection, are omitted.
    """
    paths = list(axes.weights)
    for stack in axes.stacks:
        layers = range(len(getattr(model, stack)))
        paths += [f"{stack}.{n}.{path}" for n in layers for path in axes.layer_weights]
    found = {path: _at(model, path) for path in paths}
    return {path: variable for path, variable in found.items() if variable is not None}


def _at(model: Any, path: str) -> Any:
    here = model
    for name in path.split("."):
        here = here[int(name)] if name.isdigit() else getattr(here, name, None)
        if here is None:
            return None
    return here


def model_values(model: Any) -> Values:
    """Returns the weights of a model by path, float64."""
    found = variables(model, describe(model))
    return {path: v.value.numpy().astype(np.float64) for path, v in found.items()}


def assign_values(model: Any, values: Values) -> None:
    """Sets every weight of a model, by path."""
    targets = variables(model, describe(model))
    masks = isinstance(model, MaskedTransformerStudent)
    if set(targets) != set(values) or len(targets) != len(model.weights) - masks:
        raise RuntimeError(f"undescribed weights: {set(targets) ^ set(values)}")
    for path, variable in targets.items():
        variable.assign(values[path].astype(variable.dtype))
