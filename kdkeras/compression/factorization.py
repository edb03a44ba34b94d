"""A token table as a product of two narrow matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdkeras.compression.rebuilding import resized
from kdkeras.errors import InputError
from kdkeras.layers import FactorizedEmbedding
from kdkeras.layers.factorized_embedding import low_rank_factors
from kdkeras.students import StaticStudent, Student, TransformerStudent

__all__ = ["factorize_table", "full_table", "largest_rank"]


def factorize_table(student: Student, rank: int, token_counts: np.ndarray | None = None) -> Student:
    """Stores a finished student's token table with `rank` columns.

    A static student is linear in its table, and its projection is linear too: their
    product `(V, output_dim)` is split anew, token weights and all, so that table and
    projection are narrower and nothing is added. At the full rank, the smaller of
    `embedding_dim` and `output_dim`, that changes no embedding (up to rounding) and
    still saves the token weights. A transformer's table becomes a
    `kdkeras.layers.FactorizedEmbedding`.

    Formula, with token frequencies `f`:

    ```
    static:      argmin sum_i(f[i] * |exp(w[i]) * table[i] @ kernel - narrow[i] @ new_kernel|^2)
    transformer: argmin sum_i(f[i] * |table[i] - narrow[i] @ widen|^2)
    ```

    Args:
        student: A static student or a transformer; it stays as it is.
        rank: Columns of the stored table; from 1 to `largest_rank(student)`.
        token_counts: How often each token is used, `(vocabulary_size,)`, from
            `kdkeras.compression.token_counts`; what is used often is kept more
            exactly. None (the default) for all alike.

    Returns:
        A student of its own.

    Raises:
        InputError: If the rank is out of its range, or the counts do not fit.

    References:
        Eckart, Young (1936); Lan et al. (2020), ALBERT, arXiv:1909.11942.
    """
    most = largest_rank(student)
    if not 1 <= rank <= most:
        raise InputError(
            f"`rank` must be from 1 to {most} for this student. Received: rank={rank}. "
            f"Use {most} to lose nothing or least."
        )
    counts = _checked_counts(token_counts, student.token_embedding.vocabulary_size)
    if isinstance(student, StaticStudent):
        return _factorized_static(student, int(rank), counts)
    copy = resized(student, own=["token_embedding"], table_rank=int(rank))
    copy.token_embedding.assign(full_table(student), counts)
    return copy


def largest_rank(student: Student) -> int:
    """Returns the most columns that `factorize_table` stores.

    Raises:
        InputError: If it is neither a static student nor a transformer.
    """
    if isinstance(student, StaticStudent):
        return min(student.embedding_dim, student.output_dim)
    if isinstance(student, TransformerStudent):
        return (student.table_rank or student.hidden_dim) - 1
    raise InputError(
        "A table is factorised in a static student or a transformer. "
        f"Received: {type(student).__name__}. Give one of kdkeras.students."
    )


def _factorized_static(
    student: StaticStudent, rank: int, counts: np.ndarray | None
) -> StaticStudent:
    table = _exact(student.token_embedding.table)
    if student.token_weight is not None:
        table = table * np.exp(_exact(student.token_weight.table))
    product = table @ _exact(student.projection.kernel)
    narrow, kernel = low_rank_factors(product, rank, counts)
    own = ["token_embedding", "token_weight", "projection"]
    copy = resized(student, own=own, embedding_dim=rank, token_weights=False)
    copy.token_embedding.assign(narrow)
    copy.projection.set_weights([kernel, student.projection.bias])
    return copy


def full_table(student: TransformerStudent) -> np.ndarray:
    """Returns the vectors of all tokens, `(V, hidden_dim)` float64."""
    embedding = student.token_embedding
    table = _exact(embedding.table)
    if isinstance(embedding, FactorizedEmbedding):
        return table @ _exact(embedding.expand.kernel)
    return table


def _exact(variable: Any) -> np.ndarray:
    return variable.numpy().astype(np.float64)


def _checked_counts(counts: np.ndarray | None, size: int) -> np.ndarray | None:
    if counts is None:
        return None
    counts = np.asarray(counts, np.float64)
    if counts.shape != (size,) or not (counts >= 0).all() or not counts.any():
        raise InputError(
            f"`token_counts` must be {size} numbers of at least 0, one a token and not all 0. "
            f"Received: shape {counts.shape}, the least {counts.min(initial=0):g}. "
            "Use kdkeras.compression.token_counts."
        )
    return counts
