"""Applying the maps of the axes to every weight, and placing the layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from kdkeras.growth.axes import ModelAxes, Pieces, Side, Values
from kdkeras.growth.axis_map import AxisMap
from kdkeras.growth.operators import NewLayer

__all__ = [
    "FIRST_MOMENT",
    "SECOND_MOMENT",
    "WEIGHT",
    "deepen",
    "merged_shape",
    "widen",
    "widening_flops",
]

WEIGHT, FIRST_MOMENT, SECOND_MOMENT = "weight", "first_moment", "second_moment"

Maps = Mapping[tuple[str, str], AxisMap]
"""The map of each axis and role."""


def widen(
    values: Values,
    axes: ModelAxes,
    maps: Maps,
    from_above: Collection[str] = (),
    kind: str = WEIGHT,
) -> Values:
    """Applies the maps to every array.

    Args:
        values: Weights, or moments of an optimizer, by path.
        axes: The axes of each array.
        maps: The map of each axis and role.
        from_above: Axes whose new units are copied from the layer above.
        kind: `WEIGHT` (`F W E`), `FIRST_MOMENT` (as a gradient, `E^T G F^T`) or
            `SECOND_MOMENT` (the same with the elements of `E` and `F` squared).
    """
    grown = {}
    for path, array in values.items():
        pieces, above = _description(path, axes)
        grown[path] = _apply(array, pieces, maps, kind)
        if above in values and from_above:
            upper = _apply(values[above], pieces, maps, kind)
            grown[path] = np.where(_is_new(pieces, maps, from_above, upper), upper, grown[path])
    return grown


def _description(path: str, axes: ModelAxes) -> tuple[Pieces, str]:
    """Returns the dimensions of a weight, and the path of the same weight one layer above."""
    if path in axes.weights:
        return axes.weights[path], ""
    stack, number, name = path.split(".", 2)
    return axes.layer_weights[name], f"{stack}.{int(number) + 1}.{name}"


def _matrix(pair: AxisMap, reads: bool, kind: str) -> Any:
    """Returns the matrix that multiplies a dimension from the left, `(d', d)`."""
    matrix = pair.contract if reads == (kind == WEIGHT) else pair.expand.T
    return matrix.power(2) if kind == SECOND_MOMENT else matrix


def widening_flops(values: Values, axes: ModelAxes, maps: Maps) -> int:
    """Counts the FLOPs of `widen`: two per non-zero element of `E` or `F` and vector.

    Axes that do not grow are not counted.
    """
    total = 0
    for path, array in values.items():
        pieces, _ = _description(path, axes)
        for part, piece in zip(np.split(array, len(pieces), axis=-1), pieces, strict=True):
            pairs = [(side, maps[side.axis, side.role]) for side in piece if side]
            # Number of elements, which grows with each axis.
            size = part.size
            for side, pair in pairs:
                if pair.new_size != pair.size:
                    total += 2 * _matrix(pair, side.reads, WEIGHT).nnz * (size // pair.size)
                    size = size // pair.size * pair.new_size
    return total


def _apply(array: np.ndarray, pieces: Pieces, maps: Maps, kind: str) -> np.ndarray:
    parts = np.split(array, len(pieces), axis=-1) if len(pieces) > 1 else [array]
    grown = [_apply_piece(a, piece, maps, kind) for a, piece in zip(parts, pieces, strict=True)]
    return np.concatenate(grown, axis=-1) if len(grown) > 1 else grown[0]


def _apply_piece(
    array: np.ndarray, piece: tuple[Side | None, ...], maps: Maps, kind: str
) -> np.ndarray:
    sides = [maps[side.axis, side.role] if side else None for side in piece]
    known = [pair.size if pair else -1 for pair in sides]
    # A dimension may consist of several axes, the first one slowest: heads, then head size.
    grown = array.reshape(known)
    for dimension, (side, pair) in enumerate(zip(piece, sides, strict=True)):
        if side is not None and pair is not None:
            grown = _along(grown, dimension, _matrix(pair, side.reads, kind))
    return grown.reshape(merged_shape(array.ndim, piece, grown.shape))


def _along(array: np.ndarray, dimension: int, matrix: Any) -> np.ndarray:
    moved = np.moveaxis(array, dimension, 0)
    product = matrix @ moved.reshape(len(moved), -1)
    return np.moveaxis(np.reshape(product, (-1, *moved.shape[1:])), 0, dimension)


def merged_shape(
    ndim: int, piece: tuple[Side | None, ...], shape: tuple[int, ...]
) -> tuple[int, ...]:
    """Returns the shape of the weight.

    If it has fewer dimensions than axes, neighboring axes on the same side share one.
    """
    if ndim == len(piece):
        return shape
    if ndim == 1:
        return (-1,)
    first = sum(side is not None and side.reads for side in piece) or 1
    return (int(np.prod(shape[:first])), int(np.prod(shape[first:])))


def _is_new(
    pieces: Pieces, maps: Maps, from_above: Collection[str], grown: np.ndarray
) -> np.ndarray:
    """Returns which columns belong to a unit that the old model does not have, bool."""
    columns = []
    for piece in pieces:
        new = np.zeros(1, bool)
        for side in piece:
            if side is not None and not side.reads:
                pair = maps[side.axis, side.role]
                late = (np.arange(pair.new_size) >= pair.size) & (side.axis in from_above)
                new = (new[:, None] | late[None, :]).ravel()
        columns.append(new)
    written = np.concatenate(columns)
    # Heads and their units may be separate dimensions.
    rows = np.broadcast_to(written, (grown.size // written.size, written.size))
    return rows.reshape(grown.shape)


def deepen(
    values: Values, axes: ModelAxes, layers: list[NewLayer], fresh: Values, kind: str = WEIGHT
) -> Values:
    """Copies the layers to their places, and turns new ones into identities if requested.

    Args:
        values: Arrays of the widened model, by path.
        axes: The axes of the model.
        layers: The origin of each layer of the grown model.
        fresh: Arrays for layers without an origin, by path.
        kind: As for `widen`. The moments of a new layer are 0.
    """
    grown = {path: values[path] for path in axes.weights if path in values}
    for stack in axes.stacks:
        norm = axes.entry_norm
        for number, layer in enumerate(layers):
            prefix = f"{stack}.{number}."
            source = values if layer.source is not None else fresh
            place = number if layer.source is None else layer.source
            for name in axes.layer_weights:
                path = f"{stack}.{place}.{name}"
                if path in source:  # Some parts are in some stacks only.
                    gone = layer.masked and kind != WEIGHT
                    grown[prefix + name] = np.zeros_like(source[path]) if gone else source[path]
            last = prefix + axes.last_norm
            if layer.identity:
                _silence(grown, axes, prefix, kind)
            if layer.identity and not axes.pre_norm:
                for name in (".gamma", ".beta"):
                    grown[last + name] = grown[norm + name]
                _neutral(grown, norm, kind)
            norm = last
    return grown


def _silence(values: Values, axes: ModelAxes, prefix: str, kind: str) -> None:
    for name in axes.layer_weights:
        part = name.rpartition(".")[0]
        if prefix + name in values and (kind != WEIGHT or part in axes.silenced):
            values[prefix + name] = np.zeros_like(values[prefix + name])
    for norm in axes.inner_norms:
        _neutral(values, prefix + norm, kind)


def _neutral(values: Values, norm: str, kind: str) -> None:
    gamma = np.ones_like if kind == WEIGHT else np.zeros_like
    values[f"{norm}.gamma"] = gamma(values[f"{norm}.gamma"])
    values[f"{norm}.beta"] = np.zeros_like(values[f"{norm}.beta"])
