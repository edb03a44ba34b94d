"""From a plan and a model to the map of each axis."""

from __future__ import annotations

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
    KEY,
    MAIN,
    MEAN,
    QUERY,
    VOCABULARY,
    ModelAxes,
)
from kdkeras.growth.axis_map import LINEAR, NORMALIZED, AxisMap
from kdkeras.growth.certificate import Step
from kdkeras.growth.copies import HyperCloning, Lemon, Net2Wider
from kdkeras.growth.described import is_backbone
from kdkeras.growth.expand import Maps
from kdkeras.growth.plan import GrowthPlan
from kdkeras.growth.sizes import new_sizes, sizes_of
from kdkeras.growth.tokens import Rows
from kdkeras.growth.width import WidthOperator, ZeroPadding
from kdkeras.students import StaticStudent

__all__ = ["Width"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Width:
    """How the axes of one model grow by one plan.

    Attributes:
        sizes: The new size of each axis.
        maps: The map of each axis and role; identities where nothing grows.
        rows: Where the rows of a new vocabulary's table come from.
        steps: What each operator does.
        from_above: Axes whose new units come from the layer above.
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
    ) -> Width:
        """Returns the maps of a model's axes.

        Args:
            model: The model that grows.
            axes: Its description.
            plan: What it grows to.
            vocabulary: Its vocabulary, if the model does not hold it.

        Raises:
            InputError: If a size is impossible, or an axis that the plan says
                to keep is not kept.
        """
        old, sizes = sizes_of(model), _sizes(model, plan)
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
            operator = plan.operator(axis) or _default(kind, old[axis], sizes[axis])
            main, scores = operator.pairs(kind, old[axis], sizes[axis], plan.random(axis))
            if operator.masked and is_backbone(model):
                _refuse_masks(operator.name)
            plain = operator.masked or not axes.scaled_scores
            maps.update(_roles(axis, main, scores, plain))
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


def _sizes(model: Any, plan: GrowthPlan) -> dict[str, int]:
    if not isinstance(model, StaticStudent):
        return new_sizes(model, plan)
    old = sizes_of(model)
    new = plan.sizes.get(EMBEDDING, old[EMBEDDING])
    if new < old[EMBEDDING]:
        raise InputError(
            f"A model grows: `embedding_dim` must be at least {old[EMBEDDING]}. "
            f"Received: embedding_dim={new}. Use {old[EMBEDDING]} or more."
        )
    return {**old, EMBEDDING: new}


def _step(axis: str, operator: str, old: dict[str, int], new: dict[str, int], kept: bool) -> Step:
    return Step(
        size=axis, operator=operator, before=old[axis], after=new[axis], keeps_function=kept
    )


def _default(kind: str, size: int, new_size: int) -> WidthOperator:
    """The operator that keeps the function, if there is one."""
    if kind == LINEAR:
        return ZeroPadding()
    if kind != NORMALIZED:
        return Net2Wider()
    return Lemon() if new_size % size else HyperCloning()


def _roles(
    axis: str, main: AxisMap, scores: AxisMap, plain: bool
) -> dict[tuple[str, str], AxisMap]:
    if axis == HEADS:
        return {(axis, MAIN): main, (axis, QUERY): scores, (axis, KEY): scores}
    if axis != HEAD_SIZE:
        return {(axis, MAIN): main}
    # Scores are divided by the root of the head's size, which grows: q' k'^T has to grow
    # with it. Half of that on either side, and both of one Frobenius norm. (`plain`: a masked
    # head is divided by the root of the units that are there, one of T5 by nothing.)
    growth = 1.0 if plain else np.sqrt(main.new_size / main.size)
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
            f"To keep the function `{axis}` must be a multiple of {size}, since a layer norm "
            f"weighs every unit alike. Received: {axis}={new_size}. "
            f"Use {', '.join(map(str, possible))}, MaskedGrowth(), or keeps_function=False."
        )
    raise InputError(
        f"The plan says that it keeps the function. Received: {operator.name} for `{axis}`, "
        f"which does not keep it. Use {_default(kind, size, new_size).name}(), "
        "or keeps_function=False."
    )


def _refuse_masks(name: str) -> None:
    raise InputError(
        f"Masks are part of kdkeras' own students. Received: {name} for a backbone of Keras Hub. "
        "Use HyperCloning() or Net2Wider(), or leave the operator out."
    )


def _rows(model: Any, plan: GrowthPlan, vocabulary: Vocabulary | None) -> Rows | None:
    if plan.vocabulary is None:
        return None
    if vocabulary is None:
        raise InputError(
            "New tokens are made of the old vocabulary's. Received: a model without a vocabulary. "
            "Make it with vocabulary=..., or give that to grow."
        )
    if vocabulary.size != model.vocabulary_size:
        raise InputError(
            "The vocabulary must be the model's. Received: one of "
            f"{vocabulary.size} tokens for a table of {model.vocabulary_size} rows. "
            "Give the one that the model was trained with."
        )
    if plan.vocabulary.size < model.vocabulary_size:
        raise InputError(
            f"A model grows: the vocabulary must have at least {model.vocabulary_size} tokens. "
            f"Received: {plan.vocabulary.size}. Add new tokens to the old ones."
        )
    reduce = plan.tokens.reduce or ("sum" if isinstance(model, StaticStudent) else "mean")
    rows = plan.tokens.rows(vocabulary, plan.vocabulary, reduce)
    if plan.keeps_function and rows.num_gone:
        raise InputError(
            "To keep the function the new vocabulary must hold every old token. Received: "
            f"one that lacks {rows.num_gone} of {model.vocabulary_size}. "
            "Add new tokens to the old ones, or use keeps_function=False."
        )
    return rows


def _vocabulary_maps(size: int, rows: Rows | None) -> dict[tuple[str, str], AxisMap]:
    if rows is None:
        same = AxisMap.identity(size)
        return {(VOCABULARY, MAIN): same, (VOCABULARY, MEAN): same}
    return {(VOCABULARY, MAIN): rows.axis_map(), (VOCABULARY, MEAN): rows.mean_map()}
