"""Growth under masks: new units that fade in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from scipy import sparse

from kdkeras.growth.axes import ModelAxes
from kdkeras.growth.axis_map import AxisMap
from kdkeras.growth.expand import Values, widen
from kdkeras.growth.maps import Width
from kdkeras.growth.plan import GrowthPlan
from kdkeras.growth.width import WidthOperator

__all__ = ["MaskedGrowth", "fill_masked"]


@dataclass(frozen=True, kw_only=True)
class MaskedGrowth(WidthOperator):
    """New units are faded in by a mask `m` that goes from 0 to 1 in training.

    Formula, with `c` 1 for an old unit and `m` for a new one:

    ```
    hidden_dim:       norm(x) = ((x - mean) / deviation * gamma + beta) * c,
                      mean = sum(c x) / sum(c),  variance = sum(c (x - mean)^2) / sum(c)
    intermediate_dim: gelu(...) * c
    num_heads:        queries, keys, values * c of their head
    head_size:        the same, of their unit; scores divided by sqrt(sum(c)), not sqrt(d')
    ```

    New weights are random, of the spread of the old ones beside them (biases and
    shifts 0, scales 1). Keeps the function at `m = 0`, at any size, `hidden_dim`
    too: a norm is over the units that are there. At 1 the student is a plain one
    (`unmask`). `grow` gives a `MaskedTransformerStudent` at 0; `MaskSchedule`
    moves the mask. No pair `(E, F)` is behind it: under the mask it is `([I 0], [I; 0])`.

    References:
        Yao et al. (2023), 2x Faster Language Model Pre-training via Masked
        Structural Growth, arXiv:2305.02869.
    """

    masked: ClassVar[bool] = True

    def pair(self, kind: str, size: int, new_size: int, random: np.random.Generator) -> AxisMap:
        """Returns the map of what is not masked."""
        return AxisMap(
            expand=sparse.eye_array(size, new_size), contract=sparse.eye_array(new_size, size)
        )


def fill_masked(
    wide: Values, old: Values, axes: ModelAxes, width: Width, plan: GrowthPlan
) -> Values:
    """Gives every weight of a masked unit a start of its own.

    Args:
        wide: The widened weights, 0 there.
        old: The weights that they were widened from.
        axes: Which weight uses which axis.
        width: How the axes grow.
        plan: Whose seed is used.
    """
    if not width.masked:
        return wide
    random = plan.random("masks")
    there = widen({path: np.ones_like(a) for path, a in old.items()}, axes, _coverage(width))
    filled = {}
    for path, array in wide.items():
        if array.ndim == 1:
            start = np.full(array.shape, 1.0 if path.endswith(".gamma") else 0.0)
        else:
            start = random.normal(0.0, old[path].std(), array.shape)
        filled[path] = np.where(there[path] == 1.0, array, start)
    return filled


def _coverage(width: Width) -> dict[tuple[str, str], AxisMap]:
    """Maps that take ones to 1 where no side of a weight is masked, and to 0 elsewhere."""
    found = {}
    for key, pair in width.maps.items():
        if key[0] not in width.masked:
            # Whatever the unit is made of, it is there: the first one of the old.
            first = np.zeros(pair.new_size, int), np.arange(pair.new_size)
            ones = sparse.csr_array((np.ones(pair.new_size), first), (pair.size, pair.new_size))
            pair = AxisMap(expand=ones, contract=ones.T, exact=False)
        found[key] = pair
    return found
