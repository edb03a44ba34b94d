"""The words in which a class of models is described: axes, sides, pieces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kdkeras.growth.axis_map import ELEMENTWISE, LINEAR, NORMALIZED, ROWS

__all__ = ["ModelAxes", "Side", "dense", "heads", "norm", "reads", "writes"]

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
        stacks: Attributes that hold layers; each layer has all or some of `layer_weights`.
        pre_norm: Whether each half of a layer begins with its norm, or ends with it.
        entry_norm: Path of the norm before the first layer, unless `pre_norm`.
        inner_norms: Norms inside a layer but the last.
        last_norm: The norm that gives a layer's output, unless `pre_norm`.
        silenced: Parts of a layer that are 0 in an identity.
        scaled_scores: Whether scores are divided by the root of the heads' size.
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


HIDDEN, HEADS, HEAD_SIZE, INTERMEDIATE = "hidden_dim", "num_heads", "head_size", "intermediate_dim"
EMBEDDING, VOCABULARY = "embedding_dim", "vocabulary_size"
LAYERS = "num_layers"

TRANSFORMER_KINDS = {
    HIDDEN: NORMALIZED,
    HEADS: ELEMENTWISE,
    HEAD_SIZE: LINEAR,
    INTERMEDIATE: ELEMENTWISE,
    VOCABULARY: ROWS,
}
"""The axes of every Transformer here."""


def norm(path: str) -> dict[str, Pieces]:
    """The weights of a layer norm over the hidden axis."""
    return {f"{path}.{name}": ((writes(HIDDEN),),) for name in ("gamma", "beta")}


def dense(path: str, source: Piece, target: Piece) -> dict[str, Pieces]:
    """Kernel and bias of a dense layer from some dimensions to others."""
    return {f"{path}.kernel": ((*source, *target),), f"{path}.bias": (target,)}


def heads(role: str = MAIN) -> Piece:
    """What gives queries, keys or values: heads, the slower dimension, and their units."""
    return writes(HEADS, role), writes(HEAD_SIZE, role)
