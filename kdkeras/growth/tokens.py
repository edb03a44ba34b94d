"""New rows of a token table out of the old ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from scipy import sparse

from kdkeras.data.vocabulary import Vocabulary
from kdkeras.errors import InputError
from kdkeras.growth.axis_map import AxisMap
from kdkeras.growth.operator import Operator

__all__ = ["ComposeTokens", "Rows", "TokenOperator"]


@dataclass(frozen=True, eq=False)
class Rows:
    """Where the rows of a new vocabulary's table come from.

    Attributes:
        contract: `F`, `(new size, old size)`: row `t` of the new table is
            `F[t] @ table`.
        places: `(old size,)`, the new id of each old token, -1 if it is gone.
        composed: `(new size,)` bool, true where a row is made of several, or
            stands in for another.
        averages: The same as `contract` for what is averaged, tokens' weights;
            None for `contract`.
    """

    contract: sparse.csr_array
    places: np.ndarray
    composed: np.ndarray
    averages: sparse.csr_array | None = None

    @property
    def num_gone(self) -> int:
        """Old tokens that the new vocabulary lacks."""
        return int(np.sum(self.places < 0))

    def axis_map(self) -> AxisMap:
        """Returns the pair of the vocabulary axis, exact if no old token is gone."""
        size, old = self.contract.shape
        kept = np.flatnonzero(self.places >= 0)
        expand = sparse.csr_array((np.ones(len(kept)), (kept, self.places[kept])), (old, size))
        return AxisMap(expand=expand, contract=self.contract, exact=len(kept) == old)

    def mean_map(self) -> AxisMap:
        """Returns the pair that averages rows, whatever `contract` does."""
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
        """Returns where each row of the new table comes from.

        Args:
            old: The model's vocabulary.
            new: The vocabulary it grows to.
            reduce: `"mean"` or `"sum"`.
        """
        raise NotImplementedError(f"{self.name} must implement `rows`.")


@dataclass(frozen=True, kw_only=True)
class ComposeTokens(TokenOperator):
    """A new token starts as what the old model would have read in its place.

    Formula, for a new token whose text the old vocabulary cuts into the pieces
    `p_1 ... p_k`:

    ```
    mean: row = (table[p_1] + ... + table[p_k]) / k
    sum:  row = table[p_1] + ... + table[p_k]
    ```

    A token that both vocabularies have keeps its row; what the old vocabulary
    cannot spell gets its row of unknown tokens.

    What is kept: the embedding of any ids of old tokens, exactly. Of texts that
    the new vocabulary cuts otherwise: nothing exactly in a Transformer, which
    sees fewer tokens in other places. In a static student a token's row counts
    with its weight, `exp(weight) * row`, and the pieces' rows are added up so.
    With `"sum"` the sum over a sentence's tokens is then the same if each new
    token is what the old vocabulary made of its text, but is divided by fewer
    tokens: the embedding keeps its direction before the projection's bias,
    exactly. With `"mean"` new tokens also count as one token each.

    Args:
        reduce: `"mean"` or `"sum"`; None for the sum in a static student and
            the mean elsewhere.

    Raises:
        InputError: If `reduce` is unknown.

    References:
        Hewitt (2021), Initializing new word embeddings; Gee et al. (2022),
        Fast Vocabulary Transfer, arXiv:2402.09977, for the mean of the pieces.
    """

    def rows(self, old: Vocabulary, new: Vocabulary, reduce: str) -> Rows:
        """Returns where each row of the new table comes from."""
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
    # Special tokens spell nothing and are known by their name.
    return surface if surface[0] else token


def _pieces(
    old: Vocabulary, keys: list[Key], surfaces: list[Key], ids: dict[Key, int]
) -> list[list[int]]:
    """The pieces into which the old vocabulary cuts each text, the unknown token for none."""
    if not keys:
        return []
    texts = ["" if isinstance(key, str) else key[0] for key in keys]
    rows = old.tokenize(tf.constant(texts)).to_list()
    found = []
    for key, row in zip(keys, rows, strict=True):
        spelt = [i for i in row if isinstance(surfaces[i], tuple) or i == old.unknown_id]
        first = surfaces[spelt[0]] if spelt else ""
        if isinstance(key, tuple) and not key[1] and isinstance(first, tuple) and first[1]:
            # It goes on a word, and so does its first piece where there is such a one.
            spelt[0] = ids.get((first[0], False), spelt[0])
        found.append(spelt or [old.unknown_id])
    return found
