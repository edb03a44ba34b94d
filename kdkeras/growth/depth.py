"""Operators that add layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kdkeras.errors import InputError
from kdkeras.growth.operator import Operator

__all__ = [
    "DepthOperator",
    "IdentityBlocks",
    "Interleaving",
    "MaskedLayers",
    "NewLayer",
    "Stacking",
]


@dataclass(frozen=True)
class NewLayer:
    """Where a layer of the grown model comes from.

    Attributes:
        source: The layer whose weights it takes, from 0; None for random ones.
        identity: Whether it changes nothing at first.
        masked: Whether it is under a mask, and counts nothing at first.
    """

    source: int | None
    identity: bool = False
    masked: bool = False


@dataclass(frozen=True, kw_only=True)
class DepthOperator(Operator):
    """Base class of the operators on the number of layers."""

    keeps_function: ClassVar[bool] = False

    def layers(self, num_layers: int, new_num_layers: int) -> list[NewLayer]:
        """Returns where each of the new layers comes from, the first one first."""
        raise NotImplementedError(f"{self.name} must implement `layers`.")


@dataclass(frozen=True, kw_only=True)
class IdentityBlocks(DepthOperator):
    """New layers give at first what they receive.

    Formula, for layers normalised after each half (BERT): `y = LN(u) * g + b`
    is what the layer below gives. It is made to give `LN(u)`, and the new
    layer's last norm gets `g` and `b`; its output kernels and biases are 0,
    its other norm has 1 and 0:

    ```
    LN(LN(LN(u) + 0) + 0) * g + b = y,   since LN(LN(u)) = LN(u)
    ```

    The new layer's queries, keys, values and feed-forward units are copies of
    the layer's below, so that its outputs have a gradient from the first step.
    Keeps the function. Setting the outputs to 0 alone does not, since
    `LN(y) != y`.

    Args:
        where: `"top"`, or `"spread"`: after each layer alike.

    Raises:
        InputError: If `where` is unknown.

    References:
        Chen, Goodfellow, Shlens (2015), arXiv:1511.05641, section 2.3, for
        identity layers; the norms' exchange is ours.
    """

    keeps_function: ClassVar[bool] = True
    where: str = "top"

    def __post_init__(self) -> None:
        if self.where not in ("top", "spread"):
            raise InputError(
                "`where` must be 'top' or 'spread'. "
                f"Received: where={self.where!r}. Use 'top' if in doubt."
            )

    def layers(self, num_layers: int, new_num_layers: int) -> list[NewLayer]:
        """Returns the old layers and the identities between or above them."""
        if num_layers == 0:
            return [NewLayer(None, identity=True)] * new_num_layers
        if self.where == "top":
            sources = [min(layer, num_layers - 1) for layer in range(new_num_layers)]
        else:
            sources = [layer * num_layers // new_num_layers for layer in range(new_num_layers)]
        below = [None, *sources]
        return [
            NewLayer(source, identity=source == before)
            for source, before in zip(sources, below, strict=False)
        ]


@dataclass(frozen=True, kw_only=True)
class MaskedLayers(DepthOperator):
    """New layers are faded in by a mask `m` that goes from 0 to 1 in training.

    Formula, for a new layer, a copy of the topmost old one:

    ```
    y' = y + m * (layer(y) - y)
    ```

    Keeps the function at `m = 0`; at 1 the layer is a plain one (see `MaskedGrowth`).

    References:
        Yao et al. (2023), Masked Structural Growth, arXiv:2305.02869.
    """

    keeps_function: ClassVar[bool] = True

    def layers(self, num_layers: int, new_num_layers: int) -> list[NewLayer]:
        """Returns the old layers and masked ones above them."""
        _refuse_none(num_layers)
        return [
            NewLayer(min(layer, num_layers - 1), masked=layer >= num_layers)
            for layer in range(new_num_layers)
        ]


@dataclass(frozen=True, kw_only=True)
class Stacking(DepthOperator):
    """The whole stack is put on top of itself: `W'_l = W_(l mod L)`.

    Does not keep the function.

    References:
        Gong et al. (2019), StackBERT (ICML 2019); Du et al. (2024), G_stack,
        arXiv:2405.15319.
    """

    def layers(self, num_layers: int, new_num_layers: int) -> list[NewLayer]:
        """Returns the old layers, again and again."""
        _refuse_none(num_layers)
        return [NewLayer(layer % num_layers) for layer in range(new_num_layers)]


@dataclass(frozen=True, kw_only=True)
class Interleaving(DepthOperator):
    """Each layer is followed by copies of itself: `W'_l = W_floor(l L / L')`.

    Does not keep the function.

    References:
        Chang et al. (2018), arXiv:1710.10348; compared with stacking by Du et
        al. (2024), arXiv:2405.15319.
    """

    def layers(self, num_layers: int, new_num_layers: int) -> list[NewLayer]:
        """Returns each old layer as often as its turn comes."""
        _refuse_none(num_layers)
        return [NewLayer(layer * num_layers // new_num_layers) for layer in range(new_num_layers)]


def _refuse_none(num_layers: int) -> None:
    if num_layers < 1:
        raise InputError(
            "Layers can be copied from a model that has some. Received: a model of 0 layers. "
            "Use depth=IdentityBlocks()."
        )
