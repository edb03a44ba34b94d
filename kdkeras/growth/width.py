"""Operators that widen an axis; each gives a pair (E, F) with E F = I."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import sparse

from kdkeras.errors import InputError
from kdkeras.growth.axis_map import NORMALIZED, AxisMap
from kdkeras.growth.operators import WidthOperator

__all__ = [
    "AdvancedKnowledge",
    "Chain",
    "HyperCloning",
    "Lemon",
    "Net2Wider",
    "ZeroPadding",
]

EQUAL, UNEQUAL = "equal", "unequal"


# ---- copies of old units ----


@dataclass(frozen=True, kw_only=True)
class _Copying(WidthOperator):
    """Base class of the operators whose new units are copies of old units.

    Args:
        shares: How the weights that read a unit are divided between its `c` copies:
            `"equal"`, `1/c` each, or `"unequal"`, `2k / (c (c + 1))` for `k = 1 ... c`
            in random order.
        noise: Standard deviation of the canceling noise in `F`, relative to a share,
            0 or more. With a random `R`, `(I - F E) R` is added to `F`. Since `E` maps
            it to 0, `E F = I` still holds. 0 for no noise.

    Raises:
        InputError: If `shares` is unknown or `noise` is negative.
    """

    shares: str = EQUAL
    noise: float = 0.1

    def __post_init__(self) -> None:
        if self.shares not in (EQUAL, UNEQUAL):
            raise InputError(
                f"`shares` must be one of {[EQUAL, UNEQUAL]}. Received: shares={self.shares!r}. "
                "Use 'unequal' for copies that diverge in training."
            )
        if self.noise < 0:
            raise InputError(
                f"`noise` must not be negative. Received: noise={self.noise}. "
                "Use 0.1, or 0 for no noise."
            )

    def _map(self, chosen: np.ndarray, size: int, random: np.random.Generator) -> AxisMap:
        """Returns the map whose new unit `j` is a copy of unit `chosen[j]`."""
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
    """New units are copies of randomly chosen units.

    The same as bert2BERT's Function Preserving Initialization, which divides equally
    and adds no noise: `Net2Wider(noise=0.0)`.

    Formula:

    ```
    g(j) = j for j < d, else random;   c(i) = number of j with g(j) = i
    E[i, j] = 1 if g(j) = i;   F[j, i] = share of j if g(j) = i,   1 / c(i) if equal
    ```

    Preserves the function of feed-forward units, heads and linear axes at any size, and
    of an axis with a layer norm at integer multiples, since no unit is drawn again before
    all have been drawn equally often.

    Args:
        shares: How readers are divided between copies, `"equal"` (default) or `"unequal"`.
        noise: Standard deviation of the canceling noise in `F` relative to a share,
            default 0.1. 0 for no noise.
        replacement: Whether units are drawn with replacement, as in the paper. An axis
            with a layer norm then does not preserve the function. Default False.

    Raises:
        InputError: If `shares` is unknown or `noise` is negative.

    References:
        Chen, Goodfellow, Shlens (2015), Net2Net, arXiv:1511.05641, section 2.2; Chen et
        al. (2021), bert2BERT, arXiv:2110.07143, "Function Preserving Initialization".
        The noise is an addition of kdkeras.
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
class AdvancedKnowledge(Net2Wider):
    """New units are copies of units of the layer above: bert2BERT's AKI.

    Formula, for a weight `W_l` of layer `l` and new columns `j >= d`:

    ```
    W_l'[:, j] = (F W_(l+1) E)[:, j],   all other columns (F W_l E)[:, j]
    ```

    Does not preserve the function; in exchange, no two copies are equal. The last layer
    and the weights outside the layers use `Net2Wider`.

    Args:
        shares: As for `Net2Wider`.
        noise: As for `Net2Wider`, default 0.
        replacement: As for `Net2Wider`.

    References:
        Chen et al. (2021), bert2BERT, arXiv:2110.07143, "Advanced Knowledge
        Initialization".
    """

    from_above: ClassVar[bool] = True
    noise: float = 0.0


@dataclass(frozen=True, kw_only=True)
class HyperCloning(_Copying):
    """The axis is repeated `n` times.

    Formula:

    ```
    E = 1_n (x) I   (I ... I side by side),   F = (1/n) 1_n^T (x) I + noise,   E noise = 0
    ```

    Preserves the function on every axis, including axes with a layer norm. Supports
    integer multiples only.

    Args:
        shares: How readers are divided between copies, `"equal"` (default) or `"unequal"`.
        noise: Standard deviation of the canceling noise in `F` relative to a share,
            default 0.1. 0 for no noise.

    Raises:
        InputError: If `shares` is unknown or `noise` is negative; in `grow`, if the new
            size is not a multiple of the old one.

    References:
        Samragh et al. (2024), HyperCloning, arXiv:2409.12903. The paper adds the noise
        to the weights; here it is part of `F`.
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
    """The axis is repeated with unequal shares; before a norm, the remainder is averages.

    Formula, with `n = d' // d` complete copies and `r = d' - n d` remaining units:

    ```
    E = [I ... I A],   F = [a_1 I; ...; a_n I; 0],   sum a_k = 1, all different
    A = ones(d, r) / d on a normalized axis, else copies of r units with their own shares
    ```

    Preserves the function on linear axes, feed-forward units and heads at any size, and
    on an axis with a layer norm at integer multiples. At other sizes it would preserve
    only norms that are applied before each half of a layer ("pre-LN"); kdkeras' students
    are normalized after each half.

    Args:
        shares: How readers are divided between copies, `"equal"` or `"unequal"` (default).
        noise: As for `Net2Wider`, default 0.

    Raises:
        InputError: If `shares` is unknown or `noise` is negative.

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


# ---- units that have no effect at first ----


@dataclass(frozen=True, kw_only=True)
class ZeroPadding(WidthOperator):
    """New units are 0; the weights that read them are random, so that the units learn.

    Formula:

    ```
    E = [I 0],   F = [I; R],   R random with variance 1/d, or 0
    ```

    Preserves the function on linear axes, and where a function that is 0 at 0 is applied
    to each unit separately (feed-forward units with GELU, heads). New heads copy the
    queries and keys of other heads, because queries and keys that are both 0 have no
    gradient. Changes the function on an axis with a layer norm, whose mean and variance
    change.

    Args:
        random_readers: Whether `R` is random. If False, new units and their readers are
            both 0 and never learn. Default True.

    References:
        Chen, Goodfellow, Shlens (2015), arXiv:1511.05641, for units that have no effect
        at first.
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
        """Returns the map of an axis, and for queries and keys a map that copies heads."""
        drawn = np.concatenate([np.arange(size), random.integers(size, size=new_size - size)])
        places = np.arange(new_size)
        scores = AxisMap(
            expand=sparse.csr_array((np.ones(new_size), (drawn, places)), (size, new_size)),
            contract=sparse.eye_array(new_size, size),
        )
        return self.pair(kind, size, new_size, random), scores


# ---- operators in sequence ----


@dataclass(frozen=True, kw_only=True)
class Chain(WidthOperator):
    """One operator followed by another: `E = E_1 E_2`, `F = F_2 F_1`.

    Preserves the function if both operators do.

    Args:
        first: Operator from the old size to `size`.
        size: The intermediate size.
        second: Operator from `size` to the new size.

    Raises:
        InputError: If one of the operators is `MaskedGrowth`; in `grow`, if `size` is not
            between the old and the new size.
    """

    first: WidthOperator
    size: int
    second: WidthOperator

    def __post_init__(self) -> None:
        if self.first.masked or self.second.masked:
            raise InputError(
                "A Chain must not contain MaskedGrowth, whose result is not a product. "
                "Received: MaskedGrowth in a Chain. Grow twice, with one plan each."
            )

    def pair(self, kind: str, size: int, new_size: int, random: np.random.Generator) -> AxisMap:
        """Returns the map of an axis."""
        return self.pairs(kind, size, new_size, random)[0]

    def pairs(
        self, kind: str, size: int, new_size: int, random: np.random.Generator
    ) -> tuple[AxisMap, AxisMap]:
        """Returns the map of an axis, and the map for queries and keys on an axis of heads."""
        if not size <= self.size <= new_size:
            raise InputError(
                "The intermediate size must be between the old and the new size. Received: "
                f"size={self.size} between {size} and {new_size}. Use {size} to {new_size}."
            )
        first = self.first.pairs(kind, size, self.size, random)
        second = self.second.pairs(kind, self.size, new_size, random)
        main, scores = (a.then(b) for a, b in zip(first, second, strict=True))
        return main, scores
