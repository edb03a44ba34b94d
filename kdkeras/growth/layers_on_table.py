"""Transformer layers on top of a trained table, without changing its embeddings."""

from __future__ import annotations

import numpy as np

from kdkeras.errors import InputError
from kdkeras.growth.axes import (
    EMBEDDING,
    HEADS,
    HIDDEN,
    LAYERS,
    TRANSFORMER,
    VOCABULARY,
    Values,
    assign_values,
    model_values,
)
from kdkeras.growth.depth import IdentityBlocks
from kdkeras.growth.expand import deepen
from kdkeras.growth.plan import GrowthPlan
from kdkeras.growth.resolved_plan import ResolvedPlan, transformer_sizes
from kdkeras.students import StaticStudent, TransformerStudent
from kdkeras.students.certificate import Step

__all__ = ["layers_on_table"]

# Vectors below this fraction of the mean length have no meaningful direction.
_MINIMUM_LENGTH = 1e-8
# Standard deviation of the initial kernels, as in BERT.
_STDDEV = 0.02


def layers_on_table(
    model: StaticStudent, plan: GrowthPlan, resolved: ResolvedPlan, values: Values
) -> tuple[TransformerStudent, Step]:
    """Returns a Transformer of identity layers with the embeddings of a static student.

    Args:
        model: The static student.
        plan: The plan.
        resolved: How each axis grows.
        values: The weights of the student after its axes grew, by path.

    Raises:
        InputError: If the plan adds layers other than identities, or the hidden width
            is too small.
    """
    if not isinstance(plan.depth, IdentityBlocks):
        raise InputError(
            "The first layers of a static student must be identities at first. "
            f"Received: depth={plan.depth.name}(). Use IdentityBlocks()."
        )
    sizes = transformer_sizes(resolved.sizes[EMBEDDING], plan)
    config = {
        **model.get_config(),
        **sizes,
        VOCABULARY: resolved.sizes[VOCABULARY],
        "token_weights": True,
        "name": f"{model.name}_grown",
    }
    del config[EMBEDDING]
    grown = TransformerStudent(**config, vocabulary=plan.vocabulary or model.vocabulary)
    fresh = _random_kernels(model_values(grown), plan)
    outside = _outer_values(values, fresh, sizes[HEADS], plan.random(HIDDEN))
    layers = IdentityBlocks().layers(0, sizes[LAYERS])
    assign_values(grown, deepen(outside, TRANSFORMER, layers, fresh))
    step = Step(
        size=LAYERS,
        operator="LayersOnTable",
        before=0,
        after=sizes[LAYERS],
        keeps_function=True,
    )
    return grown, step


def _random_kernels(fresh: Values, plan: GrowthPlan) -> Values:
    """Returns the weights of a new student, with kernels drawn from the plan's seed."""
    random = plan.random(LAYERS)
    return {
        path: random.normal(0.0, _STDDEV, array.shape) if array.ndim > 1 else array
        for path, array in fresh.items()
    }


def _outer_values(
    values: Values, fresh: Values, num_heads: int, random: np.random.Generator
) -> Values:
    """Computes the weights outside the layers from those of a static student.

    A layer norm removes the mean and the length of a token's vector. Therefore the
    vectors are rotated into a space where their mean is 0, the lengths become token
    weights of the pooling, and the projection rotates back.

    Formula, for `u_t = exp(weight_t) * table_t` of width `d` and hidden width `h`:

    ```
    E: (d, h), E E^T = I, E 1 = 0            (random; requires h >= d + 1)
    table'_t  = c * u_t / |u_t| @ E          LN(table'_t) = sqrt(h) * u_t / |u_t| @ E
    weight'_t = log(|u_t| / s)               s the mean of |u_t|
    kernel'   = s / sqrt(h) * E^T @ kernel   positions 0, norms 1 and 0
    ```

    so that `sum_t exp(weight'_t) LN(table'_t) @ kernel' = sum_t u_t @ kernel`. `c` keeps
    the standard deviation of the table. If the rank of the projection is `r < d`, `u` is
    first reduced to the `r` directions that it reads, and `h = r + 1` is sufficient.
    """
    table, kernel = values["token_embedding.table"], values["projection.kernel"]
    hidden = fresh["token_embedding.table"].shape[1]
    weighted = np.exp(values["token_weight.table"]) * table
    axes, strengths, _ = np.linalg.svd(kernel, full_matrices=False)
    rank = int(np.sum(strengths > strengths[0] * 1e-10))
    if rank < table.shape[1]:
        weighted, kernel = weighted @ axes[:, :rank], axes[:, :rank].T @ kernel
    _refuse_narrow(hidden, rank, num_heads)
    rotation = _without_mean(rank, hidden, random)
    lengths = np.linalg.norm(weighted, axis=1, keepdims=True)
    mean = lengths.mean()
    lengths = np.maximum(lengths, _MINIMUM_LENGTH * mean)
    directions = weighted / lengths
    # A zero vector gets an arbitrary direction; its weight makes it negligible.
    directions[np.linalg.norm(directions, axis=1) < 0.5] = np.eye(rank)[0]
    spread = np.sqrt(hidden) * table.std()
    return {
        **{path: array for path, array in fresh.items() if not path.startswith("blocks.")},
        "token_embedding.table": spread * directions @ rotation,
        "token_weight.table": np.log(lengths / mean),
        "position_embedding.position_embeddings": np.zeros_like(
            fresh["position_embedding.position_embeddings"]
        ),
        "embedding_norm.gamma": np.ones(hidden),
        "embedding_norm.beta": np.zeros(hidden),
        "projection.kernel": mean / np.sqrt(hidden) * rotation.T @ kernel,
        "projection.bias": values["projection.bias"],
    }


def _refuse_narrow(hidden: int, rank: int, num_heads: int) -> None:
    if hidden > rank:
        return
    possible = [num_heads * (rank // num_heads + step) for step in (1, 2, 3)]
    raise InputError(
        f"`hidden_dim` must be at least {rank + 1}, one more than the rank of the projection, "
        f"because a layer norm removes one direction. Received: hidden_dim={hidden}. "
        f"Use {', '.join(map(str, possible))} with {num_heads} heads, or any larger multiple."
    )


def _without_mean(rank: int, hidden: int, random: np.random.Generator) -> np.ndarray:
    """Returns random orthonormal rows that each sum to 0, `(rank, hidden)`."""
    columns = np.column_stack([np.ones(hidden), random.normal(size=(hidden, rank))])
    orthonormal, _ = np.linalg.qr(columns)
    return orthonormal[:, 1:].T
