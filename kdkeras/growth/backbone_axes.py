"""Backbones of Keras Hub, described as data."""

from __future__ import annotations

from kdkeras.growth.axes import (
    HEAD_SIZE,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    KEY,
    MAIN,
    QUERY,
    TRANSFORMER_KINDS,
    VOCABULARY,
    ModelAxes,
    Pieces,
    dense,
    heads,
    norm,
    reads,
    writes,
)

__all__ = ["BERT", "ROBERTA", "T5"]

_TOKENS = (reads(VOCABULARY), writes(HIDDEN))


# ---- layers normalised after each half: `keras_hub.layers.TransformerEncoder` ----

_ATTENTION = "_self_attention_layer"
_ENCODER: dict[str, Pieces] = {
    **dense(f"{_ATTENTION}._query_dense", (reads(HIDDEN),), heads(QUERY)),
    **dense(f"{_ATTENTION}._key_dense", (reads(HIDDEN),), heads(KEY)),
    **dense(f"{_ATTENTION}._value_dense", (reads(HIDDEN),), heads(MAIN)),
    **dense(f"{_ATTENTION}._output_dense", (reads(HEADS), reads(HEAD_SIZE)), (writes(HIDDEN),)),
    **norm("_self_attention_layer_norm"),
    **dense("_feedforward_intermediate_dense", (reads(HIDDEN),), (writes(INTERMEDIATE),)),
    **dense("_feedforward_output_dense", (reads(INTERMEDIATE),), (writes(HIDDEN),)),
    **norm("_feedforward_layer_norm"),
}


def _encoder(weights: dict[str, Pieces]) -> ModelAxes:
    return ModelAxes(
        kinds=TRANSFORMER_KINDS,
        weights={**weights, **norm("embeddings_layer_norm")},
        layer_weights=_ENCODER,
        stacks=("transformer_layers",),
        entry_norm="embeddings_layer_norm",
        inner_norms=("_self_attention_layer_norm",),
        last_norm="_feedforward_layer_norm",
        silenced=(f"{_ATTENTION}._output_dense", "_feedforward_output_dense"),
    )


BERT = _encoder(
    {
        "token_embedding.embeddings": (_TOKENS,),
        "position_embedding.position_embeddings": ((None, writes(HIDDEN)),),
        "segment_embedding.embeddings": ((None, writes(HIDDEN)),),
        # Each unit passes through tanh alone: copies of hidden units give copies.
        **dense("pooled_dense", (reads(HIDDEN),), (writes(HIDDEN),)),
    }
)

ROBERTA = _encoder(
    {
        "embeddings.token_embedding.embeddings": (_TOKENS,),
        "embeddings.position_embedding.position_embeddings": ((None, writes(HIDDEN)),),
    }
)


# ---- T5: normalised before each part, by the root of the mean square alone ----


def _attention(name: str) -> dict[str, Pieces]:
    return {
        f"{name}.query_projector.kernel": ((reads(HIDDEN), *heads(QUERY)),),
        f"{name}.key_projector.kernel": ((reads(HIDDEN), *heads(KEY)),),
        f"{name}.value_projector.kernel": ((reads(HIDDEN), *heads(MAIN)),),
        f"{name}.output_projector.kernel": ((reads(HEADS), reads(HEAD_SIZE), writes(HIDDEN)),),
        f"{name}_layer_norm.weight": ((writes(HIDDEN),),),
    }


_T5_STACKS = ("encoder_transformer_layers", "decoder_transformer_layers")

T5 = ModelAxes(
    kinds=TRANSFORMER_KINDS,
    weights={
        "token_embedding.embeddings": (_TOKENS,),
        # Only where it is not tied to the above.
        "token_embedding.reverse_embeddings": ((reads(HIDDEN), reads(VOCABULARY)),),
        # The first layer's bias on positions serves all: one number a bucket and head.
        **{
            f"{stack}.0.self_attention.relative_attention_bias": ((None, writes(HEADS, QUERY)),)
            for stack in _T5_STACKS
        },
        "encoder_layer_norm.weight": ((writes(HIDDEN),),),
        "decoder_layer_norm.weight": ((writes(HIDDEN),),),
    },
    layer_weights={
        **_attention("self_attention"),
        **_attention("cross_attention"),
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
