"""How one axis of a model grows: a pair of matrices E and F with E F = I."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import sparse

from kdkeras.errors import InputError

__all__ = ["ELEMENTWISE", "LINEAR", "NORMALIZED", "ROWS", "AxisMap"]

LINEAR = "linear"
"""Nothing stands between what writes the axis and what reads it."""
ELEMENTWISE = "elementwise"
"""A function of each unit (or head) alone, 0 where the unit is 0."""
NORMALIZED = "normalized"
"""A layer norm over all units."""
ROWS = "rows"
"""The rows of a table, looked up one by one."""

_EXACT = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class AxisMap:
    """Expands an axis of `d` units to `d'`, and contracts it again.

    Formula, for row vectors `x` on the axis:

    ```
    x' = x @ E            what writes the axis:  W' = W @ E, b' = b @ E
    x  = x' @ F           what reads it:         W' = F @ W
    E @ F = I
    ```

    Maps compose: `a.then(b)` has `E = E_a E_b` and `F = F_b F_a`, so that a
    weight grown many times is `F_k ... F_1 W E_1 ... E_k`.

    Gradients go the other way round, since `x' = x E` and `x = x' F` give
    `dL/dx' = (dL/dx) F^T`: what writes the axis has the gradient `G @ F^T`,
    what reads it `E^T @ G`.

    Args:
        expand: `E`, `(d, d')`, dense or sparse.
        contract: `F`, `(d', d)`, dense or sparse.
        exact: Whether `E F = I` is required. A vocabulary that lacks old
            tokens has no such pair, and keeps nothing.

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
                "`contract` must have the shape of `expand` turned round. Received: expand "
                f"{self.expand.shape}, contract {self.contract.shape}. Use ({large}, {small})."
            )
        if not self.exact:
            return
        error = abs(self.expand @ self.contract - sparse.eye_array(small)).max()
        if error > _EXACT:
            raise InputError(
                "`expand @ contract` must be the identity. "
                f"Received: matrices that differ from it by {error:.1e}. "
                "Divide what reads a copied unit by the number of its copies."
            )

    @classmethod
    def identity(cls, size: int) -> AxisMap:
        """Returns the map that leaves `size` units as they are."""
        return cls(expand=sparse.eye_array(size), contract=sparse.eye_array(size))

    @property
    def size(self) -> int:
        """Units before."""
        return int(self.expand.shape[0])

    @property
    def new_size(self) -> int:
        """Units after."""
        return int(self.expand.shape[1])

    def then(self, second: AxisMap) -> AxisMap:
        """Returns this map followed by another.

        Raises:
            InputError: If the second does not start at the size that this one ends at.
        """
        if second.size != self.new_size:
            raise InputError(
                "The second map must start where the first ends. Received: "
                f"{self.size} to {self.new_size}, then {second.size} to {second.new_size}. "
                f"Use a second map from {self.new_size}."
            )
        return AxisMap(
            expand=self.expand @ second.expand,
            contract=second.contract @ self.contract,
            exact=self.exact and second.exact,
        )

    def turned(self, scale: float = 1.0) -> AxisMap:
        """Returns `(scale * F^T, E^T / scale)`, the map of what is multiplied with this axis.

        If queries are written by `E`, keys by `F^T`, then `q' k'^T = q E F k^T = q k^T`.
        """
        return AxisMap(expand=scale * self.contract.T, contract=self.expand.T / scale)

    def scaled(self, scale: float) -> AxisMap:
        """Returns `(scale * E, F / scale)`."""
        return AxisMap(expand=scale * self.expand, contract=self.contract / scale)

    def keeps(self, kind: str) -> bool:
        """Whether `f(x E) F = f(x)` for what stands between writers and readers.

        Args:
            kind: `LINEAR`: always. `ELEMENTWISE`: every new unit is a copy of
                one unit, or 0. `NORMALIZED`: every unit has equally many
                copies, and there is nothing else (mean and variance stay).
                `ROWS`: every old row has one place.
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
