"""From a plan and a model to the new size and the map of each axis."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from kdkeras.data.vocabulary import Vocabulary
from kdkeras.errors import InputError
from kdkeras.growth.axes import (
    EMBEDDING,
    HEAD_SIZE,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    KEY,
    LAYERS,
    MAIN,
    MEAN,
    QUERY,
    VOCABULARY,
    ModelAxes,
    is_backbone,
)
from kdkeras.growth.axis_map import LINEAR, NORMALIZED, AxisMap
from kdkeras.growth.expand import Maps
from kdkeras.growth.operators import WidthOperator
from kdkeras.growth.plan import GrowthPlan
from kdkeras.growth.tokens import Rows
from kdkeras.growth.width import HyperCloning, Lemon, Net2Wider, ZeroPadding
from kdkeras.students import StaticStudent
from kdkeras.students.certificate import Step

__all__ = ["ResolvedPlan", "check_names", "transformer_sizes"]

TRANSFORMER_SIZES = (HIDDEN, HEADS, HEAD_SIZE, INTERMEDIATE, LAYERS)
# Heads have 64 units in most models since BERT.
_HEAD_SIZE = 64
# KerasHub's name for the head size of T5, whose heads need not fill the hidden width.
_FREE_HEAD_SIZE = "key_value_dim"


@dataclass(frozen=True, kw_only=True, eq=False)
class ResolvedPlan:
    """A growth plan applied to the sizes of one model.

    Attributes:
        sizes: The new size of each axis.
        maps: The map of each axis and role; the identity for axes that do not grow.
        rows: How the rows of a new vocabulary's table are made, or None.
        steps: One entry per operator.
        from_above: Axes whose new units are copied from the layer above.
        masked: Axes whose new units are masked.
    """

    sizes: dict[str, int]
    maps: Maps
    rows: Rows | None
    steps: tuple[Step, ...]
    from_above: tuple[str, ...]
    masked: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, model: Any, axes: ModelAxes, plan: GrowthPlan, vocabulary: Vocabulary | None = None
    ) -> ResolvedPlan:
        """Resolves a plan for a model.

        Args:
            model: The model that grows.
            axes: Its axes.
            plan: The plan.
            vocabulary: The model's vocabulary, if the model does not have it.

        Raises:
            InputError: If a size is impossible, or an operator changes the function
                although the plan requires that it is preserved.
        """
        old, sizes = sizes_of(model), _new_sizes(model, plan)
        rows = _rows(model, plan, vocabulary or getattr(model, "vocabulary", None))
        maps: dict[tuple[str, str], AxisMap] = _vocabulary_maps(model.vocabulary_size, rows)
        steps, above, masked = [], [], []
        if rows is not None:
            sizes[VOCABULARY] = maps[VOCABULARY, MAIN].new_size
            kept = rows.num_gone == 0
            steps.append(_step(VOCABULARY, plan.tokens.name, old, sizes, kept))
        for axis, kind in axes.kinds.items():
            if axis == VOCABULARY:
                continue
            if sizes[axis] == old[axis]:
                same = AxisMap.identity(old[axis])
                maps.update({(axis, role): same for role in (MAIN, QUERY, KEY)})
                continue
            operator = plan.operator(axis) or _default_operator(kind, old[axis], sizes[axis])
            main, scores = operator.pairs(kind, old[axis], sizes[axis], plan.random(axis))
            if operator.masked and is_backbone(model):
                _refuse_masks(operator.name)
            unscaled = operator.masked or not axes.scaled_scores
            maps.update(_roles(axis, main, scores, unscaled))
            kept = operator.masked or (main.keeps(kind) and not operator.from_above)
            if plan.keeps_function and not kept:
                _refuse(axis, kind, operator, old[axis], sizes[axis])
            steps.append(_step(axis, operator.name, old, sizes, kept))
            above += [axis] * operator.from_above
            masked += [axis] * operator.masked
        return cls(
            sizes=sizes,
            maps=maps,
            rows=rows,
            steps=tuple(steps),
            from_above=tuple(above),
            masked=tuple(masked),
        )


# ---- sizes ----


def sizes_of(model: Any) -> dict[str, int]:
    """Returns a model's sizes by name."""
    if isinstance(model, StaticStudent):
        return {EMBEDDING: model.embedding_dim, VOCABULARY: int(model.vocabulary_size or 0)}
    return {
        HIDDEN: model.hidden_dim,
        HEADS: model.num_heads,
        HEAD_SIZE: getattr(model, _FREE_HEAD_SIZE, None) or model.hidden_dim // model.num_heads,
        INTERMEDIATE: model.intermediate_dim,
        LAYERS: model.num_layers,
        VOCABULARY: int(model.vocabulary_size or 0),
    }


def check_names(model: Any, plan: GrowthPlan) -> None:
    """Checks that the model's class has the sizes and axes that the plan names.

    Raises:
        InputError: For an unknown name.
    """
    static = isinstance(model, StaticStudent)
    valid = ((EMBEDDING,) if static else ()) + TRANSFORMER_SIZES
    named = [*plan.sizes, *(plan.operators if isinstance(plan.operators, Mapping) else ())]
    for name in named:
        if name == VOCABULARY:
            raise InputError(
                "`sizes` must not contain the vocabulary's size. Received: 'vocabulary_size'. "
                "Use GrowthPlan(vocabulary=...) with a vocabulary that contains the old tokens."
            )
        if name not in valid:
            raise InputError(
                f"The sizes of a {type(model).__name__} are {list(valid)}. "
                f"Received: the name {name!r}. Use one of these."
            )
    if static and LAYERS not in plan.sizes:
        unused = [name for name in plan.sizes if name != EMBEDDING]
        if unused:
            raise InputError(
                f"A static student without layers has no `{unused[0]}`. "
                f"Received: sizes without 'num_layers'. Add num_layers, e.g. 2."
            )


def _new_sizes(model: Any, plan: GrowthPlan) -> dict[str, int]:
    if not isinstance(model, StaticStudent):
        return _new_transformer_sizes(model, plan)
    old = sizes_of(model)
    sizes = {**old, EMBEDDING: plan.sizes.get(EMBEDDING, old[EMBEDDING])}
    _refuse_shrinking(old, sizes)
    return sizes


def _new_transformer_sizes(model: Any, plan: GrowthPlan) -> dict[str, int]:
    """Returns the sizes of a grown Transformer.

    If only some of hidden width, number of heads and head size are named, the others
    follow: first the number of heads, then their size. In T5, where heads and width are
    independent, sizes that are not named are unchanged, unless the heads filled the width.
    """
    old, named = sizes_of(model), plan.sizes
    sizes = {**old, **named}
    filled = old[HEADS] * old[HEAD_SIZE] == old[HIDDEN]
    several = len({HIDDEN, HEADS, HEAD_SIZE} & set(named)) > 1
    if hasattr(model, _FREE_HEAD_SIZE) and (several or not filled):
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
    """Returns the sizes of a Transformer that a static student grows into.

    The default hidden width is the smallest multiple of the head size above
    `embedding_dim`. The default head size is 64, or the largest size up to 64 that
    divides a given width.

    Raises:
        InputError: If the heads do not fill the width.
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
            "Omit num_heads and head_size, or use two values that fit."
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
                f"A model cannot shrink: `{name}` must be at least {size}. "
                f"Received: {name}={sizes[name]}. Use {size} or more."
            )


# ---- maps ----


def _step(axis: str, operator: str, old: dict[str, int], new: dict[str, int], kept: bool) -> Step:
    return Step(
        size=axis, operator=operator, before=old[axis], after=new[axis], keeps_function=kept
    )


def _default_operator(kind: str, size: int, new_size: int) -> WidthOperator:
    """Returns the operator that preserves the function, if there is one."""
    if kind == LINEAR:
        return ZeroPadding()
    if kind != NORMALIZED:
        return Net2Wider()
    return Lemon() if new_size % size else HyperCloning()


def _roles(
    axis: str, main: AxisMap, scores: AxisMap, unscaled: bool
) -> dict[tuple[str, str], AxisMap]:
    if axis == HEADS:
        return {(axis, MAIN): main, (axis, QUERY): scores, (axis, KEY): scores}
    if axis != HEAD_SIZE:
        return {(axis, MAIN): main}
    # Scores are divided by the root of the head size, which grows, so q' k'^T must grow by
    # the same factor. It is split between queries and keys such that their maps have the
    # same Frobenius norm. `unscaled`: the scores of a masked head are divided by the root of
    # the number of unmasked units, those of T5 are not divided.
    growth = 1.0 if unscaled else np.sqrt(main.new_size / main.size)
    norms = sparse.linalg.norm(main.contract) / sparse.linalg.norm(main.expand)
    query = float(np.sqrt(growth * norms))
    return {
        (axis, MAIN): main,
        (axis, QUERY): main.scaled(query),
        (axis, KEY): main.turned(float(growth) / query),
    }


def _refuse(axis: str, kind: str, operator: WidthOperator, size: int, new_size: int) -> None:
    if kind == NORMALIZED and new_size % size:
        below = size * (new_size // size)
        possible = [n for n in (below, below + size, below + 2 * size) if n > size]
        raise InputError(
            f"To preserve the function, `{axis}` must be a multiple of {size}, because a layer "
            f"norm weighs all units equally. Received: {axis}={new_size}. "
            f"Use {', '.join(map(str, possible))}, MaskedGrowth(), or keeps_function=False."
        )
    raise InputError(
        f"With keeps_function=True, every operator must preserve the function. Received: "
        f"{operator.name} for `{axis}`. Use {_default_operator(kind, size, new_size).name}(), "
        "or keeps_function=False."
    )


def _refuse_masks(name: str) -> None:
    raise InputError(
        f"Masks are only supported by kdkeras students. Received: {name} for a KerasHub backbone. "
        "Use HyperCloning() or Net2Wider(), or omit the operator."
    )


def _rows(model: Any, plan: GrowthPlan, vocabulary: Vocabulary | None) -> Rows | None:
    if plan.vocabulary is None:
        return None
    if vocabulary is None:
        raise InputError(
            "New tokens are made from the tokens of the old vocabulary. Received: a model without "
            "a vocabulary. Create it with vocabulary=..., or pass vocabulary=... to grow."
        )
    if vocabulary.size != model.vocabulary_size:
        raise InputError(
            "`vocabulary` must be the model's vocabulary. Received: one of "
            f"{vocabulary.size} tokens for a table of {model.vocabulary_size} rows. "
            "Use the vocabulary that the model was trained with."
        )
    if plan.vocabulary.size < model.vocabulary_size:
        raise InputError(
            "A model cannot shrink: the vocabulary must have at least "
            f"{model.vocabulary_size} tokens. Received: {plan.vocabulary.size}. "
            "Add new tokens to the old ones."
        )
    reduce = plan.tokens.reduce or ("sum" if isinstance(model, StaticStudent) else "mean")
    rows = plan.tokens.rows(vocabulary, plan.vocabulary, reduce)
    if plan.keeps_function and rows.num_gone:
        raise InputError(
            "To preserve the function, the new vocabulary must contain every old token. Received: "
            f"one that lacks {rows.num_gone} of {model.vocabulary_size}. "
            "Add new tokens to the old ones, or use keeps_function=False."
        )
    return rows


def _vocabulary_maps(size: int, rows: Rows | None) -> dict[tuple[str, str], AxisMap]:
    if rows is None:
        same = AxisMap.identity(size)
        return {(VOCABULARY, MAIN): same, (VOCABULARY, MEAN): same}
    return {(VOCABULARY, MAIN): rows.axis_map(), (VOCABULARY, MEAN): rows.mean_map()}
