"""Operators whose new units are copies of old ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import sparse

from kdkeras.errors import InputError
from kdkeras.growth.axis_map import NORMALIZED, AxisMap
from kdkeras.growth.width import WidthOperator

__all__ = ["AdvancedKnowledge", "FunctionPreserving", "HyperCloning", "Lemon", "Net2Wider"]

EQUAL, UNEQUAL = "equal", "unequal"


@dataclass(frozen=True, kw_only=True)
class _Copying(WidthOperator):
    """Base class of the operators whose new units are copies.

    Args:
        shares: How what reads a unit is divided between its `c` copies:
            `"equal"`, `1/c` each, or `"unequal"`, `2k / (c (c + 1))` for
            `k = 1 ... c` in random order.
        noise: Size of the cancelling noise in `F`, relative to a share: with
            `R` random, `F + (I - F E) R` is added, which `E` maps to 0, so
            that `E F = I` stays. 0 for none.

    Raises:
        InputError: If `shares` is unknown or `noise` is negative.
    """

    shares: str = EQUAL
    noise: float = 0.1

    def __post_init__(self) -> None:
        if self.shares not in (EQUAL, UNEQUAL):
            raise InputError(
                f"`shares` must be one of {[EQUAL, UNEQUAL]}. Received: shares={self.shares!r}. "
                "Use 'unequal' for copies that separate in training."
            )
        if self.noise < 0:
            raise InputError(
                f"`noise` must not be negative. Received: noise={self.noise}. "
                "Use 0.1, or 0 for none."
            )

    def _map(self, chosen: np.ndarray, size: int, random: np.random.Generator) -> AxisMap:
        """The map whose new unit `j` is a copy of unit `chosen[j]`."""
        new_size = len(chosen)
        places = np.arange(new_size)
        expand = sparse.csr_array((np.ones(new_size), (chosen, places)), (size, new_size))
        share = self._shares(chosen, size, random)
        contract = sparse.csr_array((share, (places, chosen)), (new_size, size))
        if self.noise:
            added = random.normal(0.0, self.noise / np.sqrt(size), (new_size, size))
            added *= share[:, None]
            contract = contract + sparse.csr_array(added - contract @ (expand @ added))
        return AxisMap(expand=expand, contract=contract)

    def _shares(self, chosen: np.ndarray, size: int, random: np.random.Generator) -> np.ndarray:
        copies = np.bincount(chosen, minlength=size)
        if self.shares == EQUAL:
            return 1.0 / copies[chosen]
        rank = np.zeros(len(chosen))
        for unit in range(size):
            rank[chosen == unit] = 1 + random.permutation(copies[unit])
        return 2 * rank / (copies * (copies + 1))[chosen]


@dataclass(frozen=True, kw_only=True)
class Net2Wider(_Copying):
    """New units are copies of random units.

    Formula:

    ```
    g(j) = j for j < d, else random;   c(i) = how many j have g(j) = i
    E[i, j] = 1 if g(j) = i;   F[j, i] = share of j if g(j) = i,   1 / c(i) if equal
    ```

    Keeps the function of feed-forward units, heads and linear axes at any
    size; of an axis with a layer norm at whole multiples, since units are
    drawn without repetition until each has been drawn as often.

    Args:
        replacement: Whether units are drawn as in the paper, with repetition;
            then no axis with a layer norm is kept.

    References:
        Chen, Goodfellow, Shlens (2015), Net2Net, arXiv:1511.05641, section
        2.2. The noise is ours.
    """

    replacement: bool = False

    def pair(self, kind: str, size: int, new_size: int, random: np.random.Generator) -> AxisMap:
        """Returns the map of an axis."""
        more = new_size - size
        if self.replacement:
            drawn = random.integers(size, size=more)
        else:
            rounds = [random.permutation(size) for _ in range(-(-more // size))]
            drawn = np.concatenate([np.zeros(0, int), *rounds])[:more]
        return self._map(np.concatenate([np.arange(size), drawn]), size, random)


@dataclass(frozen=True, kw_only=True)
class FunctionPreserving(Net2Wider):
    """Net2Wider on every axis of a Transformer: bert2BERT's FPI.

    The formula, and what it keeps, are those of `Net2Wider`. The paper divides
    equally and adds no noise: `FunctionPreserving(noise=0.0)`.

    References:
        Chen et al. (2021), bert2BERT, arXiv:2110.07143, "Function Preserving
        Initialization".
    """


@dataclass(frozen=True, kw_only=True)
class AdvancedKnowledge(Net2Wider):
    """New units are copies of units of the layer above: bert2BERT's AKI.

    Formula, for a weight `W_l` of layer `l` and new columns `j >= d`:

    ```
    W_l'[:, j] = (F W_(l+1) E)[:, j],   the rest is (F W_l E)[:, j]
    ```

    Does not keep the function, by design; copies are never alike. The last
    layer and what is in no layer take `Net2Wider`.

    References:
        Chen et al. (2021), bert2BERT, arXiv:2110.07143, "Advanced Knowledge
        Initialization".
    """

    from_above: ClassVar[bool] = True
    noise: float = 0.0


@dataclass(frozen=True, kw_only=True)
class HyperCloning(_Copying):
    """The whole axis is repeated `n` times.

    Formula:

    ```
    E = 1_n (x) I   (I ... I side by side),   F = (1/n) 1_n^T (x) I + noise,   E noise = 0
    ```

    Keeps the function on every axis, with layer norm too. Whole multiples only.

    References:
        Samragh et al. (2024), HyperCloning, arXiv:2409.12903, whose noise is
        added to weights; here it is in `F`.
    """

    def pair(self, kind: str, size: int, new_size: int, random: np.random.Generator) -> AxisMap:
        """Returns the map of an axis."""
        if new_size % size:
            raise InputError(
                f"HyperCloning repeats the whole axis: the new size must be a multiple of {size}. "
                f"Received: {new_size}. Use {size * (new_size // size)} or "
                f"{size * (new_size // size + 1)}, or another operator."
            )
        return self._map(np.arange(new_size) % size, size, random)


@dataclass(frozen=True, kw_only=True)
class Lemon(_Copying):
    """Repeats the axis with unequal shares; a remainder is averages where a norm follows.

    Formula, with `n = d' // d` whole copies and `r = d' - n d` units more:

    ```
    E = [I ... I A],   F = [a_1 I; ...; a_n I; 0],   sum a_k = 1, all different
    A = ones(d, r) / d for a normalized axis; else r more copies, with shares of their own
    ```

    Keeps the function on linear axes, feed-forward units and heads at any
    size. With a layer norm: at whole multiples. In between it keeps norms
    whose input is written whole (before the attention, "pre-LN"), which
    kdkeras' students, normalised after each half, have not.

    References:
        Wang et al. (2023), LEMON, arXiv:2310.07999, average width expansion.
    """

    shares: str = UNEQUAL
    noise: float = 0.0

    def pair(self, kind: str, size: int, new_size: int, random: np.random.Generator) -> AxisMap:
        """Returns the map of an axis."""
        rest = new_size % size
        if kind != NORMALIZED or not rest:
            return self._map(np.arange(new_size) % size, size, random)
        whole = self._map(np.arange(new_size - rest) % size, size, random)
        average = np.full((size, rest), 1.0 / size)
        return AxisMap(
            expand=sparse.hstack([whole.expand, average]),
            contract=sparse.vstack([whole.contract, sparse.csr_array((rest, size))]),
        )
