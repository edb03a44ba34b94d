"""The students, described as data."""

from __future__ import annotations

from kdkeras.growth.axes import (
    EMBEDDING,
    HEAD_SIZE,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    KEY,
    MAIN,
    MEAN,
    QUERY,
    TRANSFORMER_KINDS,
    VOCABULARY,
    ModelAxes,
    dense,
    heads,
    norm,
    reads,
    writes,
)
from kdkeras.growth.axis_map import LINEAR, ROWS

__all__ = ["STATIC", "TRANSFORMER"]

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
        "token_embedding.table": ((reads(VOCABULARY), writes(HIDDEN)),),
        "token_weight.table": ((reads(VOCABULARY, MEAN), None),),
        "position_embedding.position_embeddings": ((None, writes(HIDDEN)),),
        **norm("embedding_norm"),
        **dense("projection", (reads(HIDDEN),), (None,)),
    },
    layer_weights={
        "qkv_dense.kernel": tuple((reads(HIDDEN), *heads(r)) for r in (QUERY, KEY, MAIN)),
        "qkv_dense.bias": tuple(heads(r) for r in (QUERY, KEY, MAIN)),
        **dense("output_dense", (reads(HEADS), reads(HEAD_SIZE)), (writes(HIDDEN),)),
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
