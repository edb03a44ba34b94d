"""Operators that make the rows of new tokens from the rows of old ones."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf
from scipy import sparse

from kdkeras import teachers
from kdkeras.data.vocabulary import Vocabulary
from kdkeras.errors import InputError
from kdkeras.growth.axis_map import AxisMap
from kdkeras.growth.operators import Operator
from kdkeras.students.initialization import teacher_pieces

__all__ = ["AlignTokens", "ComposeTokens", "Rows", "TokenOperator"]

# Maximum number of old tokens in the linear combination of each aligned row.
_FITTED = 2048


@dataclass(frozen=True, eq=False)
class Rows:
    """How the rows of a new vocabulary's table are made.

    Attributes:
        contract: `F`, `(new size, old size)`: row `t` of the new table is
            `F[t] @ table`.
        places: `(old size,)`, the new id of each old token, -1 if the new vocabulary
            lacks it.
        composed: `(new size,)` bool, true for a token that the old vocabulary lacks.
        averages: As `contract`, for tables whose rows are averaged (token weights).
            None to use `contract`.
    """

    contract: sparse.csr_array
    places: np.ndarray
    composed: np.ndarray
    averages: sparse.csr_array | None = None

    @property
    def num_gone(self) -> int:
        """Number of old tokens that the new vocabulary lacks."""
        return int(np.sum(self.places < 0))

    def axis_map(self) -> AxisMap:
        """Returns the map of the vocabulary axis, exact if no old token is missing."""
        size, old = self.contract.shape
        kept = np.flatnonzero(self.places >= 0)
        expand = sparse.csr_array((np.ones(len(kept)), (kept, self.places[kept])), (old, size))
        return AxisMap(expand=expand, contract=self.contract, exact=len(kept) == old)

    def mean_map(self) -> AxisMap:
        """Returns the map that averages rows."""
        given = self.contract if self.averages is None else self.averages
        main, sums = self.axis_map(), sparse.diags_array(1.0 / given.sum(axis=1))
        return AxisMap(expand=main.expand, contract=sums @ given, exact=main.exact)


@dataclass(frozen=True, kw_only=True)
class TokenOperator(Operator):
    """Base class of the operators on the vocabulary."""

    reduce: str | None = None

    def __post_init__(self) -> None:
        if self.reduce not in (None, "mean", "sum"):
            raise InputError(
                "`reduce` must be 'mean', 'sum' or None. "
                f"Received: reduce={self.reduce!r}. Use None if in doubt."
            )

    def rows(self, old: Vocabulary, new: Vocabulary, reduce: str) -> Rows:
        """Returns how each row of the new table is made.

        Args:
            old: The model's vocabulary.
            new: The vocabulary that it grows to.
            reduce: `"mean"` or `"sum"`.
        """
        raise NotImplementedError(f"{self.name} must implement `rows`.")


@dataclass(frozen=True, kw_only=True)
class ComposeTokens(TokenOperator):
    """A new token starts as the mean or sum of its pieces in the old vocabulary.

    Formula, for a new token whose text the old vocabulary splits into the pieces
    `p_1 ... p_k`:

    ```
    mean: row = (table[p_1] + ... + table[p_k]) / k
    sum:  row = table[p_1] + ... + table[p_k]
    ```

    A token of both vocabularies keeps its row. A token that the old vocabulary cannot
    spell gets the row of the unknown token.

    The embedding of ids of old tokens is preserved exactly. Texts that the new vocabulary
    splits differently are not: a Transformer sees fewer tokens at other positions. In a
    static student the row of a token counts with its weight, `exp(weight) * row`, and the
    pieces are summed with these weights. With `"sum"`, the sum over the tokens of a
    sentence is then unchanged if each new token is spelled as the old vocabulary split it,
    but it is divided by a smaller number of tokens: the embedding keeps its direction
    exactly, except for the projection's bias. With `"mean"`, each new token counts as
    one token.

    Args:
        reduce: `"mean"` or `"sum"`. None (default) for the sum in a static student and
            the mean in any other model.

    Raises:
        InputError: If `reduce` is unknown.

    References:
        Hewitt (2021), Initializing new word embeddings; Gee et al. (2022), Fast
        Vocabulary Transfer, arXiv:2402.09977, for the mean of the pieces.
    """

    def rows(self, old: Vocabulary, new: Vocabulary, reduce: str) -> Rows:
        """Returns how each row of the new table is made."""
        surfaces = [_key(old, token) for token in old.tokens]
        ids = {key: number for number, key in enumerate(surfaces)}
        keys = [_key(new, token) for token in new.tokens]
        known = np.array([ids.get(key, -1) for key in keys])
        places = np.full(old.size, -1)
        places[known[known >= 0]] = np.flatnonzero(known >= 0)
        missing = np.flatnonzero(known < 0)
        pieces = _pieces(old, [keys[token] for token in missing], surfaces, ids)
        sources = [[number] for number in known]
        for token, found in zip(missing, pieces, strict=True):
            sources[token] = found
        counts = np.array([len(found) for found in sources])
        shares = np.repeat(1.0 / counts if reduce == "mean" else np.ones(len(counts)), counts)
        where = np.repeat(np.arange(new.size), counts)
        contract = sparse.coo_array(
            (shares, (where, np.concatenate(sources))), (new.size, old.size)
        ).tocsr()
        return Rows(contract=contract, places=places, composed=known < 0)


Key = tuple[str, bool] | str


def _key(vocabulary: Vocabulary, token: str) -> Key:
    surface = vocabulary.surface(token)
    # Special tokens have no text; they are identified by their name.
    return surface if surface[0] else token


def _pieces(
    old: Vocabulary, keys: list[Key], surfaces: list[Key], ids: dict[Key, int]
) -> list[list[int]]:
    """Returns the ids of the pieces of each text; the unknown token if there are none."""
    if not keys:
        return []
    texts = ["" if isinstance(key, str) else key[0] for key in keys]
    rows = old.tokenize(tf.constant(texts)).to_list()
    found = []
    for key, row in zip(keys, rows, strict=True):
        spelt = [i for i in row if isinstance(surfaces[i], tuple) or i == old.unknown_id]
        first = surfaces[spelt[0]] if spelt else ""
        if isinstance(key, tuple) and not key[1] and isinstance(first, tuple) and first[1]:
            # The token continues a word; so must its first piece, if such a piece exists.
            spelt[0] = ids.get((first[0], False), spelt[0])
        found.append(spelt or [old.unknown_id])
    return found


@dataclass(frozen=True, kw_only=True)
class AlignTokens(TokenOperator):
    """A new token starts at the position that a teacher's vectors predict from old tokens.

    Use it for new languages whose words the old vocabulary cannot spell, or spells letter by
    letter, and that a multilingual teacher knows.

    Formula, with the teacher's vectors `T` of `n` old tokens (plus a constant column),
    `t` of a new token, and the ridge `r`:

    ```
    row = t (T^T T + r n I)^-1 T^T table
    ```

    This is the ridge regression of the old rows on the teacher's vectors, and therefore a
    linear combination of old rows, like all growth. At most 2,048 old tokens are used,
    evenly spaced in the vocabulary. Tokens that the teacher does not know, and all token
    weights, are made from their pieces (`ComposeTokens`).

    Args:
        teacher: Argument of `kdkeras.teachers.load`: a folder, or `hf://name`.
        ridge: `r`, above 0, relative to vectors of variance 1. Default 0.01.
        reduce: As for `ComposeTokens`.

    Raises:
        InputError: If `ridge` is not positive.

    References:
        Artetxe, Ruder, Yogatama (2020), arXiv:1910.11856, for new embeddings under an
        unchanged model; Minixhofer et al. (2022), WECHSEL, arXiv:2112.06598, for rows
        from aligned vectors.
    """

    teacher: str
    ridge: float = 1e-2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.ridge > 0:
            raise InputError(f"`ridge` must be positive. Received: ridge={self.ridge!r}. Use 1e-2.")

    def rows(self, old: Vocabulary, new: Vocabulary, reduce: str) -> Rows:
        """Returns how each row of the new table is made."""
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
    """Returns each token's mean teacher vector and a 1, NaN for unknown tokens."""
    found = np.full((len(pieces), table.shape[1] + 1), np.nan)
    for token, rows in enumerate(pieces):
        if rows:
            found[token] = [*table[rows].mean(axis=0), 1.0]
    return found
