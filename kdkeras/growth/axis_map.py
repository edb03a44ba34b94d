"""How one axis of a model grows: a pair of matrices E and F with E F = I."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from kdkeras.errors import InputError

__all__ = ["ELEMENTWISE", "LINEAR", "NORMALIZED", "ROWS", "AxisMap"]

LINEAR = "linear"
"""No function is applied between the weights that write the axis and those that read it."""
ELEMENTWISE = "elementwise"
"""A function with `f(0) = 0` is applied to each unit (or head) separately."""
NORMALIZED = "normalized"
"""A layer norm is applied over all units."""
ROWS = "rows"
"""The axis is the rows of a lookup table."""

_EXACT = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class AxisMap:
    """Expands an axis from `d` to `d'` units, and contracts it again.

    Formula, for row vectors `x` on the axis:

    ```
    x' = x @ E            weights that write the axis:  W' = W @ E, b' = b @ E
    x  = x' @ F           weights that read it:         W' = F @ W
    E @ F = I
    ```

    Maps compose: `a.then(b)` has `E = E_a E_b` and `F = F_b F_a`, so a weight that grew
    `k` times is `F_k ... F_1 W E_1 ... E_k`.

    Gradients transform with the transposes, since `x' = x E` and `x = x' F` imply
    `dL/dx' = (dL/dx) F^T`: the gradient `G` of a weight that writes the axis becomes
    `G @ F^T`, that of a weight that reads it `E^T @ G`.

    Args:
        expand: `E`, `(d, d')`, dense or sparse.
        contract: `F`, `(d', d)`, dense or sparse.
        exact: Whether `E F = I` is required. False for a vocabulary that lacks old
            tokens, which has no such pair and does not preserve the function.

    Raises:
        InputError: If the shapes do not fit or `E F` is not the identity.
    """

    expand: Any
    contract: Any
    exact: bool = True

    def __post_init__(self) -> None:
        for name in ("expand", "contract"):
            object.__setattr__(self, name, sparse.csr_array(getattr(self, name), dtype=float))
        small, large = self.expand.shape
        if self.contract.shape != (large, small):
            raise InputError(
                "`contract` must have the transposed shape of `expand`. Received: expand "
                f"{self.expand.shape}, contract {self.contract.shape}. Use ({large}, {small})."
            )
        if not self.exact:
            return
        error = abs(self.expand @ self.contract - sparse.eye_array(small)).max()
        if error > _EXACT:
            raise InputError(
                "`expand @ contract` must be the identity. "
                f"Received: matrices whose product differs from it by {error:.1e}. "
                "Divide the rows of `contract` by the number of copies of their unit."
            )

    @classmethod
    def identity(cls, size: int) -> AxisMap:
        """Returns the map that leaves `size` units unchanged."""
        return cls(expand=sparse.eye_array(size), contract=sparse.eye_array(size))

    @property
    def size(self) -> int:
        """Number of units before growth."""
        return int(self.expand.shape[0])

    @property
    def new_size(self) -> int:
        """Number of units after growth."""
        return int(self.expand.shape[1])

    def then(self, second: AxisMap) -> AxisMap:
        """Returns this map followed by another.

        Raises:
            InputError: If the size of the second map is not the new size of this one.
        """
        if second.size != self.new_size:
            raise InputError(
                "The second map must start at the size where the first ends. Received: "
                f"{self.size} to {self.new_size}, then {second.size} to {second.new_size}. "
                f"Use a second map from {self.new_size}."
            )
        return AxisMap(
            expand=self.expand @ second.expand,
            contract=second.contract @ self.contract,
            exact=self.exact and second.exact,
        )

    def turned(self, scale: float = 1.0) -> AxisMap:
        """Returns `(scale * F^T, E^T / scale)`, the map of the other factor of a dot product.

        With queries written by `E` and keys by `F^T`, `q' k'^T = q E F k^T = q k^T`.
        """
        return AxisMap(expand=scale * self.contract.T, contract=self.expand.T / scale)

    def scaled(self, scale: float) -> AxisMap:
        """Returns `(scale * E, F / scale)`."""
        return AxisMap(expand=scale * self.expand, contract=self.contract / scale)

    def keeps(self, kind: str) -> bool:
        """Returns whether `f(x E) F = f(x)` for the function `f` on the axis.

        Args:
            kind: `LINEAR`: always true. `ELEMENTWISE`: true if every new unit is a copy
                of one unit, or 0. `NORMALIZED`: true if all units have the same number
                of copies and there are no other new units, so that mean and variance
                are unchanged. `ROWS`: true if every old row occurs exactly once.
        """
        if not self.exact or kind == LINEAR:
            return self.exact
        columns = self.expand.tocsc()
        columns.eliminate_zeros()
        per_column = np.diff(columns.indptr)
        if not np.all(columns.data == 1.0) or per_column.max(initial=0) > 1:
            return False
        if kind == ELEMENTWISE:
            return True
        copies = np.bincount(columns.indices, minlength=self.size)
        if kind == ROWS:
            return bool(np.all(copies == 1))
        return bool(per_column.min() == 1 and np.all(copies == copies[0]))
