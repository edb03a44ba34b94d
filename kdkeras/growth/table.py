"""Layers on top of a trained table: a Transformer that embeds as the static student did."""

from __future__ import annotations

import numpy as np

from kdkeras.errors import InputError
from kdkeras.growth.expand import Values

__all__ = ["transformer_values"]

# Length of a token's vector, as a share of the mean, below which its direction says nothing.
_NO_LENGTH = 1e-8


def transformer_values(
    values: Values, fresh: Values, num_heads: int, random: np.random.Generator
) -> Values:
    """Computes the weights outside the layers, which are identities, from a table's.

    A layer norm takes from a token's vector its mean and its length. So the
    vector is turned into a space without mean, its length goes into the token's
    weight in the pooling, and the projection turns back:

    Formula, for `u_t = exp(weight_t) * table_t` of width `d`, hidden width `h`:

    ```
    E: (d, h), E E^T = I, E 1 = 0            (random; possible from h = d + 1)
    table'_t  = c * u_t / |u_t| @ E          LN(table'_t) = sqrt(h) * u_t / |u_t| @ E
    weight'_t = log(|u_t| / s)               s the mean of |u_t|
    kernel'   = s / sqrt(h) * E^T @ kernel   positions 0, norms 1 and 0
    ```

    so that `sum_t exp(weight'_t) LN(table'_t) @ kernel' = sum_t u_t @ kernel`.
    `c` keeps the spread of the table. If the projection reads only `r < d`
    directions, `u` is reduced to them first, and `h = r + 1` is enough.

    Args:
        values: Weights of the static student, float64, by path.
        fresh: Weights of the new student, by path.
        num_heads: Heads of the new student, for the sizes to name.
        random: Source of `E`.

    Returns:
        The weights that are not in a layer, by path.

    Raises:
        InputError: If the hidden width is too small.
    """
    table, kernel = values["token_embedding.table"], values["projection.kernel"]
    hidden = fresh["token_embedding.table"].shape[1]
    weighted = np.exp(values["token_weight.table"]) * table
    axes, strengths, _ = np.linalg.svd(kernel, full_matrices=False)
    rank = int(np.sum(strengths > strengths[0] * 1e-10))
    if rank < table.shape[1]:
        weighted, kernel = weighted @ axes[:, :rank], axes[:, :rank].T @ kernel
    _refuse_narrow(hidden, rank, num_heads)
    turn = _without_mean(rank, hidden, random)
    lengths = np.linalg.norm(weighted, axis=1, keepdims=True)
    mean = lengths.mean()
    lengths = np.maximum(lengths, _NO_LENGTH * mean)
    directions = weighted / lengths
    # A token that says nothing has some direction, and no length.
    directions[np.linalg.norm(directions, axis=1) < 0.5] = np.eye(rank)[0]
    spread = np.sqrt(hidden) * table.std()
    return {
        **{path: array for path, array in fresh.items() if not path.startswith("blocks.")},
        "token_embedding.table": spread * directions @ turn,
        "token_weight.table": np.log(lengths / mean),
        "position_embedding.position_embeddings": np.zeros_like(
            fresh["position_embedding.position_embeddings"]
        ),
        "embedding_norm.gamma": np.ones(hidden),
        "embedding_norm.beta": np.zeros(hidden),
        "projection.kernel": mean / np.sqrt(hidden) * turn.T @ kernel,
        "projection.bias": values["projection.bias"],
    }


def _refuse_narrow(hidden: int, rank: int, num_heads: int) -> None:
    if hidden > rank:
        return
    possible = [num_heads * (rank // num_heads + step) for step in (1, 2, 3)]
    raise InputError(
        f"`hidden_dim` must be at least {rank + 1}, one more than what the projection reads of "
        f"the table, since a layer norm takes one direction. Received: hidden_dim={hidden}. "
        f"Use {', '.join(map(str, possible))} with {num_heads} heads, or any larger multiple."
    )


def _without_mean(rank: int, hidden: int, random: np.random.Generator) -> np.ndarray:
    """Random orthonormal rows whose entries add up to 0, `(rank, hidden)`."""
    columns = np.column_stack([np.ones(hidden), random.normal(size=(hidden, rank))])
    orthonormal, _ = np.linalg.qr(columns)
    return orthonormal[:, 1:].T
