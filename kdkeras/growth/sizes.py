"""From the sizes that a plan names to the sizes of the grown model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdkeras.errors import InputError
from kdkeras.growth.axes import (
    EMBEDDING,
    HEAD_SIZE,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    LAYERS,
    VOCABULARY,
)
from kdkeras.growth.plan import GrowthPlan
from kdkeras.students import StaticStudent

__all__ = ["check_names", "new_sizes", "sizes_of", "transformer_sizes"]

TRANSFORMER_SIZES = (HIDDEN, HEADS, HEAD_SIZE, INTERMEDIATE, LAYERS)
# Heads of 64 units, as in most models since BERT.
_HEAD_SIZE = 64
# Keras Hub's name of the heads' size in T5, whose heads need not fill the width.
_FREE_HEADS = "key_value_dim"


def sizes_of(model: Any) -> dict[str, int]:
    """Returns a model's sizes by name."""
    if isinstance(model, StaticStudent):
        return {EMBEDDING: model.embedding_dim, VOCABULARY: int(model.vocabulary_size or 0)}
    return {
        HIDDEN: model.hidden_dim,
        HEADS: model.num_heads,
        HEAD_SIZE: getattr(model, _FREE_HEADS, None) or model.hidden_dim // model.num_heads,
        INTERMEDIATE: model.intermediate_dim,
        LAYERS: model.num_layers,
        VOCABULARY: int(model.vocabulary_size or 0),
    }


def check_names(model: Any, plan: GrowthPlan) -> None:
    """Refuses sizes and operators that the model's class has not.

    Raises:
        InputError: For an unknown name.
    """
    static = isinstance(model, StaticStudent)
    valid = ((EMBEDDING,) if static else ()) + TRANSFORMER_SIZES
    named = [*plan.sizes, *(plan.operators if isinstance(plan.operators, Mapping) else ())]
    for name in named:
        if name == VOCABULARY:
            raise InputError(
                "The vocabulary grows by its tokens. Received: the name 'vocabulary_size'. "
                "Use GrowthPlan(vocabulary=...) with a vocabulary that holds the old tokens."
            )
        if name not in valid:
            raise InputError(
                f"A {type(model).__name__} grows by {list(valid)}. "
                f"Received: the name {name!r}. Use one of these."
            )
    if static and LAYERS not in plan.sizes:
        needless = [name for name in plan.sizes if name != EMBEDDING]
        if needless:
            raise InputError(
                f"A static student has {needless[0]} once it has layers. "
                f"Received: sizes without 'num_layers'. Add num_layers, e.g. 2."
            )


def new_sizes(model: Any, plan: GrowthPlan) -> dict[str, int]:
    """Returns the sizes of a grown Transformer.

    Of hidden width, heads and head size, those that are not named follow: first
    the heads' number, then their size. In T5, where heads and width are free of
    each other, all stay that are not named, unless they filled the width before.

    Raises:
        InputError: If something would shrink, or heads do not fill the width.
    """
    old, named = sizes_of(model), plan.sizes
    sizes = {**old, **named}
    filled = old[HEADS] * old[HEAD_SIZE] == old[HIDDEN]
    several = len({HIDDEN, HEADS, HEAD_SIZE} & set(named)) > 1
    if hasattr(model, _FREE_HEADS) and (several or not filled):
        _refuse_shrinking(old, sizes)
        return sizes
    if HIDDEN not in named:
        sizes[HIDDEN] = sizes[HEADS] * sizes[HEAD_SIZE]
    elif HEADS not in named and (HEAD_SIZE in named or sizes[HIDDEN] % old[HEAD_SIZE] == 0):
        sizes[HEADS] = sizes[HIDDEN] // sizes[HEAD_SIZE]
    elif HEAD_SIZE not in named:
        sizes[HEAD_SIZE] = sizes[HIDDEN] // sizes[HEADS]
    _refuse_shrinking(old, sizes)
    if sizes[HEADS] * sizes[HEAD_SIZE] != sizes[HIDDEN]:
        step = sizes[HEAD_SIZE] if HEAD_SIZE in named or HEADS not in named else sizes[HEADS]
        below = step * (sizes[HIDDEN] // step)
        raise InputError(
            "`hidden_dim` must be num_heads * head_size. "
            f"Received: hidden_dim={sizes[HIDDEN]}, {sizes[HEADS]} heads of {sizes[HEAD_SIZE]}. "
            f"Use a multiple of {step}, e.g. {max(below, old[HIDDEN])} or {below + step}."
        )
    return sizes


def transformer_sizes(embedding_dim: int, plan: GrowthPlan) -> dict[str, int]:
    """Returns the sizes of a Transformer that grows out of a table.

    Its width, where it is not named, is the next multiple of the heads' size
    that holds the table; heads have 64 units, or the most up to that which
    divide the width.

    Raises:
        InputError: If heads do not fill the width.
    """
    named = plan.sizes
    hidden, heads = named.get(HIDDEN), named.get(HEADS)
    if hidden is None:
        size = named.get(HEAD_SIZE, _HEAD_SIZE)
        heads = heads or -(-(embedding_dim + 1) // size)
        hidden = heads * size
    elif heads is None:
        largest = max(size for size in range(1, _HEAD_SIZE + 1) if hidden % size == 0)
        heads = hidden // named.get(HEAD_SIZE, largest)
    if heads * named.get(HEAD_SIZE, hidden // max(heads, 1)) != hidden:
        raise InputError(
            "`hidden_dim` must be num_heads * head_size. Received: "
            f"hidden_dim={hidden}, num_heads={heads}, head_size={named.get(HEAD_SIZE)}. "
            "Leave num_heads and head_size out, or name two that fit."
        )
    return {
        HIDDEN: hidden,
        HEADS: heads,
        INTERMEDIATE: named.get(INTERMEDIATE, 4 * hidden),
        LAYERS: named[LAYERS],
    }


def _refuse_shrinking(old: dict[str, int], sizes: dict[str, int]) -> None:
    for name, size in old.items():
        if sizes[name] < size:
            raise InputError(
                f"A model grows: `{name}` must be at least {size}. "
                f"Received: {name}={sizes[name]}. Use {size} or more."
            )
