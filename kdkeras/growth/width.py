"""Operators that widen an axis; each gives one pair (E, F) with E F = I."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import sparse

from kdkeras.errors import InputError
from kdkeras.growth.axis_map import AxisMap
from kdkeras.growth.operator import Operator

__all__ = [
    "Chain",
    "WidthOperator",
    "ZeroPadding",
]


@dataclass(frozen=True, kw_only=True)
class WidthOperator(Operator):
    """Base class of the operators on one axis."""

    from_above: ClassVar[bool] = False
    """Whether new units are taken from the layer above."""
    masked: ClassVar[bool] = False
    """Whether new units are masked at first."""

    def pair(self, kind: str, size: int, new_size: int, random: np.random.Generator) -> AxisMap:
        """Returns the map of an axis.

        Args:
            kind: What stands between its writers and readers, see `axis_map`.
            size: Units before.
            new_size: Units after, more than `size`.
            random: Source of selections and noise.

        Raises:
            InputError: If the operator cannot make this size; the message names some it can.
        """
        raise NotImplementedError(f"{self.name} must implement `pair`.")

    def pairs(
        self, kind: str, size: int, new_size: int, random: np.random.Generator
    ) -> tuple[AxisMap, AxisMap]:
        """Returns the map of an axis, and that of the queries and keys of an axis of heads."""
        pair = self.pair(kind, size, new_size, random)
        return pair, pair


@dataclass(frozen=True, kw_only=True)
class ZeroPadding(WidthOperator):
    """New units are 0; what reads them is random, so that they learn.

    Formula:

    ```
    E = [I 0],   F = [I; R],   R random with variance 1/d, or 0
    ```

    Keeps the function on linear axes, and where each unit is passed through a
    function alone that is 0 at 0 (feed-forward units with GELU, heads). New
    heads copy the queries and keys of others: with both 0 they would stay so.
    A layer norm's mean and variance change: not kept.

    Args:
        random_readers: Whether `R` is random. With 0, new units and what reads
            them are both 0 and never learn.

    References:
        Chen, Goodfellow, Shlens (2015), arXiv:1511.05641, for the idea of
        units that change nothing at first.
    """

    random_readers: bool = True

    def pair(self, kind: str, size: int, new_size: int, random: np.random.Generator) -> AxisMap:
        """Returns the map of an axis."""
        more = new_size - size
        readers = random.normal(0.0, size**-0.5 * self.random_readers, (more, size))
        return AxisMap(
            expand=sparse.eye_array(size, new_size),
            contract=sparse.vstack([sparse.eye_array(size), sparse.csr_array(readers)]),
        )

    def pairs(
        self, kind: str, size: int, new_size: int, random: np.random.Generator
    ) -> tuple[AxisMap, AxisMap]:
        """Returns the map, and that of queries and keys: copies of heads, which nothing reads."""
        drawn = np.concatenate([np.arange(size), random.integers(size, size=new_size - size)])
        places = np.arange(new_size)
        scores = AxisMap(
            expand=sparse.csr_array((np.ones(new_size), (drawn, places)), (size, new_size)),
            contract=sparse.eye_array(new_size, size),
        )
        return self.pair(kind, size, new_size, random), scores


@dataclass(frozen=True, kw_only=True)
class Chain(WidthOperator):
    """One operator after another: `E = E_1 E_2`, `F = F_2 F_1`.

    Keeps the function if both do.

    Args:
        first: From the axis' size to `size`.
        size: The size between.
        second: From `size` to the new size.

    Raises:
        InputError: If one of them masks its units.
    """

    first: WidthOperator
    size: int
    second: WidthOperator

    def __post_init__(self) -> None:
        if self.first.masked or self.second.masked:
            raise InputError(
                "Masked units are no product. Received: MaskedGrowth in a Chain. "
                "Grow twice, by a plan each."
            )

    def pair(self, kind: str, size: int, new_size: int, random: np.random.Generator) -> AxisMap:
        """Returns the map of an axis."""
        return self.pairs(kind, size, new_size, random)[0]

    def pairs(
        self, kind: str, size: int, new_size: int, random: np.random.Generator
    ) -> tuple[AxisMap, AxisMap]:
        """Returns the map of an axis, and that of the queries and keys of an axis of heads."""
        if not size <= self.size <= new_size:
            raise InputError(
                "The size between must be between the old and the new one. Received: "
                f"size={self.size} between {size} and {new_size}. Use {size} to {new_size}."
            )
        first = self.first.pairs(kind, size, self.size, random)
        second = self.second.pairs(kind, self.size, new_size, random)
        main, scores = (a.then(b) for a, b in zip(first, second, strict=True))
        return main, scores
