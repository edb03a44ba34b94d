"""Operators that add layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from kdkeras.errors import InputError
from kdkeras.growth.operators import DepthOperator, NewLayer

__all__ = ["IdentityBlocks", "Interleaving", "MaskedLayers", "Stacking"]


@dataclass(frozen=True, kw_only=True)
class IdentityBlocks(DepthOperator):
    """New layers return their input at first.

    Formula, for layers that are normalized after each half (BERT), with
    `y = LN(u) * g + b` the output of the layer below: the last norm of the layer below
    gets scale 1 and shift 0, so it returns `LN(u)`; the last norm of the new layer gets
    `g` and `b`; the output kernels and biases of the new layer are 0, and its other norm
    has scale 1 and shift 0:

    ```
    LN(LN(LN(u) + 0) + 0) * g + b = y,   since LN(LN(u)) = LN(u)
    ```

    The queries, keys, values and feed-forward units of the new layer are copies of those
    of the layer below, so that its output kernels have a gradient from the first step.
    Preserves the function. Output kernels of 0 alone would not, because `LN(y) != y`.

    Args:
        where: `"top"` (default) to add all layers above the old ones, `"spread"` to
            distribute them evenly between the old ones.

    Raises:
        InputError: If `where` is unknown.

    References:
        Chen, Goodfellow, Shlens (2015), arXiv:1511.05641, section 2.3, for identity
        layers. The exchange of the norms is an addition of kdkeras.
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
        """Returns the old layers, and identity layers between or above them."""
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
    """New layers are faded in by a mask `m` that moves from 0 to 1 in training.

    Formula, for a new layer, which is a copy of the topmost old layer:

    ```
    y' = y + m * (layer(y) - y)
    ```

    Preserves the function at `m = 0`. At `m = 1` the layer is a plain one (see
    `MaskedGrowth`).

    References:
        Yao et al. (2023), Masked Structural Growth, arXiv:2305.02869.
    """

    keeps_function: ClassVar[bool] = True

    def layers(self, num_layers: int, new_num_layers: int) -> list[NewLayer]:
        """Returns the old layers, and masked layers above them."""
        _require_layers(num_layers)
        return [
            NewLayer(min(layer, num_layers - 1), masked=layer >= num_layers)
            for layer in range(new_num_layers)
        ]


@dataclass(frozen=True, kw_only=True)
class Stacking(DepthOperator):
    """The stack of layers is repeated: `W'_l = W_(l mod L)`.

    Does not preserve the function.

    References:
        Gong et al. (2019), StackBERT (ICML 2019); Du et al. (2024), G_stack,
        arXiv:2405.15319.
    """

    def layers(self, num_layers: int, new_num_layers: int) -> list[NewLayer]:
        """Returns the old layers in order, repeated."""
        _require_layers(num_layers)
        return [NewLayer(layer % num_layers) for layer in range(new_num_layers)]


@dataclass(frozen=True, kw_only=True)
class Interleaving(DepthOperator):
    """Each layer is followed by copies of itself: `W'_l = W_floor(l L / L')`.

    Does not preserve the function.

    References:
        Chang et al. (2018), arXiv:1710.10348; compared with stacking by Du et al. (2024),
        arXiv:2405.15319.
    """

    def layers(self, num_layers: int, new_num_layers: int) -> list[NewLayer]:
        """Returns the old layers, each followed by its copies."""
        _require_layers(num_layers)
        return [NewLayer(layer * num_layers // new_num_layers) for layer in range(new_num_layers)]


def _require_layers(num_layers: int) -> None:
    if num_layers < 1:
        raise InputError(
            "Layers can only be copied from a model that has layers. Received: a model of 0 "
            "layers. Use depth=IdentityBlocks()."
        )
