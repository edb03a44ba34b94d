"""New rows of a token table where a teacher's rows say that they belong."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy import sparse

from kdkeras import teachers
from kdkeras.data.vocabulary import Vocabulary
from kdkeras.errors import InputError
from kdkeras.growth.tokens import ComposeTokens, Rows, TokenOperator
from kdkeras.students.initialization import teacher_pieces

__all__ = ["AlignTokens"]

# Old tokens that the map is fitted to; each is a number in every new row's combination.
_FITTED = 2048


@dataclass(frozen=True, kw_only=True)
class AlignTokens(TokenOperator):
    """A new token starts where its teacher's vector lies among those of old tokens.

    For new languages whose words the old vocabulary spells letter by letter, or
    not at all, and a multilingual teacher knows.

    Formula, with the teacher's vectors `T` of old tokens (a constant beside
    them) and `t` of a new one, `n` old tokens and `r` the ridge:

    ```
    row = t (T^T T + r n I)^-1 T^T table
    ```

    the ridge regression of the old rows on the teacher's vectors: a linear
    combination of old rows, as every growth. At most 2,048 old tokens are taken,
    evenly over their order. A token of which the teacher knows nothing is made of
    its pieces (`ComposeTokens`), and so are all tokens' weights.

    Args:
        teacher: What `kdkeras.teachers.load` takes: a folder, or `hf://name`.
        ridge: `r`, above 0, relative to vectors of variance 1.
        reduce: As for `ComposeTokens`.

    Raises:
        InputError: If `ridge` is not positive.

    References:
        Artetxe, Ruder, Yogatama (2020), arXiv:1910.11856, for new embeddings under
        a model that stays; Minixhofer et al. (2022), WECHSEL, arXiv:2112.06598, for
        rows out of aligned vectors.
    """

    teacher: str
    ridge: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ridge > 0:
            raise InputError(f"`ridge` must be positive. Received: ridge={self.ridge!r}. Use 1e-2.")

    def rows(self, old: Vocabulary, new: Vocabulary, reduce: str) -> Rows:
        """Returns where each row of the new table comes from."""
        rows = ComposeTokens(reduce=self.reduce).rows(old, new, reduce)
        teacher = teachers.load(self.teacher)
        names, table = teacher.token_embeddings()
        table = (table - table.mean(axis=0)) / table.std()
        before, after = (
            _vectors(teacher_pieces(each, teacher, names)[0], table) for each in (old, new)
        )
        fitted = np.flatnonzero(~np.isnan(before[:, 0]))
        fitted = fitted[np.linspace(0, len(fitted) - 1, min(_FITTED, len(fitted))).astype(int)]
        aligned = np.flatnonzero(rows.composed & ~np.isnan(after[:, 0]))
        if not len(fitted) or not len(aligned):
            return rows
        known = before[fitted]
        gram = known.T @ known + self.ridge * len(known) * np.eye(known.shape[1])
        shares = after[aligned] @ np.linalg.solve(gram, known.T)
        dense = sparse.coo_array(
            (
                shares.ravel(),
                (np.repeat(aligned, len(fitted)), np.tile(fitted, len(aligned))),
            ),
            rows.contract.shape,
        )
        others = np.ones(new.size)
        others[aligned] = 0.0
        contract = (sparse.diags_array(others) @ rows.contract + dense).tocsr()
        return replace(rows, contract=contract, averages=rows.contract)


def _vectors(pieces: list[list[int]], table: np.ndarray) -> np.ndarray:
    """The teacher's vector of each token and a 1, NaN where it has none."""
    found = np.full((len(pieces), table.shape[1] + 1), np.nan)
    for token, rows in enumerate(pieces):
        if rows:
            found[token] = [*table[rows].mean(axis=0), 1.0]
    return found
