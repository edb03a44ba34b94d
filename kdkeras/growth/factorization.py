"""Growth's inverse: kernels and tables as products, and products multiplied out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdkeras.compression import factorize_table
from kdkeras.compression.factorization import full_table, largest_rank
from kdkeras.compression.rebuilding import resized
from kdkeras.errors import InputError
from kdkeras.growth.certificate import Step, batches_of, probe_batch
from kdkeras.growth.certifying import certify_products, with_certificate
from kdkeras.layers import FactorizedDense
from kdkeras.layers.transformer_block import KERNELS, kernel_shapes
from kdkeras.students import StaticStudent, Student, TransformerStudent

__all__ = ["factorize", "merge"]

TABLE, PROJECTION = "table", "projection"

Moments = dict[tuple[int, str], np.ndarray]
"""Mean of `x x^T` over what a dense layer reads, by block and layer; the projection's at -1."""


def factorize(
    model: Student,
    ranks: Mapping[str, int],
    probe: Sequence[str] | dict[str, Any] | None = None,
) -> Student:
    """Stores kernels, and the token table, as products of two narrow matrices.

    Formula, for a kernel `W` `(d, o)` and what it reads on the probe, the rows of `X`:

    ```
    A, B = argmin |X (W - A B)|^2 = (W V, V^T),   V: the first eigenvectors of W^T X^T X W
    ```

    and `argmin |W - A B|^2` without a probe. A kernel is smaller and faster below
    the rank `d o / (d + o)`. At the full rank, the smaller of `d` and `o`, the
    function stays. Biases stay as they are. What training goes on with is the
    product: it cannot leave the rank.

    Args:
        model: A `TransformerStudent` or a `StaticStudent`; it stays as it is.
        ranks: Rank by name. Of a Transformer: `qkv`, `attention_output`,
            `intermediate`, `feedforward` (each in every block), `projection`, and
            `table`, the token table; of a static student: `table`, which is split
            together with the projection (see `kdkeras.compression.factorize_table`).
        probe: Texts (real ones, some hundred) or `{"token_ids", "padding_mask"}`
            whose tokens the products shall be the nearest on; of a table, what is
            used often. None (the default) for all directions and tokens alike.

    Returns:
        A student of its own, which saves and exports as any other. Its
        `certificate` says what was lost, on the probe or on random token ids.

    Raises:
        InputError: If the model is another, a name is unknown, a rank is out of its
            range, or the probe cannot be read.

    References:
        Eckart, Young (1936); Yuan et al. (2023), ASVD, arXiv:2312.05821; Wang et
        al. (2024), SVD-LLM, arXiv:2403.07378.

    Example:
    >>> student = TransformerStudent(50, 8, 1, 16, 2, 32)
    >>> narrow = factorize(student, {"feedforward": 4, "table": 8})
    >>> narrow.count_params() < student.count_params()
    True
    """
    largest_rank(model)  # Refuses other models.
    _check_names(model, ranks)
    compared = probe_batch(model, probe)
    batch = None if probe is None else compared[0]
    kernels = {name: rank for name, rank in ranks.items() if name != TABLE}
    made = model
    if kernels or TABLE not in ranks:
        made = _with_kernels(model, {**(_ranks_of(model)), **kernels}, batch, set(kernels))
    if TABLE in ranks:
        counts = None if batch is None else _token_counts(batch, int(model.vocabulary_size or 0))
        made = factorize_table(made, ranks[TABLE], counts)
    steps = _steps("Factorize", _ranks(model), _ranks(made))
    return with_certificate(made, certify_products(model, made, steps, compared))


def merge(model: Student) -> Student:
    """Multiplies every chain of linear layers out to one kernel or table.

    What `factorize` split, or training started as products
    (`TransformerStudent(kernel_ranks=..., table_rank=...)`), becomes plain: larger
    on disk, but one product in place of two, and a student that can `grow`. A
    static student's token weights, table and projection are one product, too: it
    becomes a table of as few columns as hold that, with its projection. Embeddings
    stay within 1e-6.

    Args:
        model: A `TransformerStudent` or a `StaticStudent`; it stays as it is.

    Returns:
        A student of its own, whose `certificate` says what was kept, on random
        token ids.

    Raises:
        InputError: If the model is another.
    """
    merged = _merged(model)
    steps = _steps("Merge", _ranks(model), _ranks(merged))
    return with_certificate(
        merged, certify_products(model, merged, steps, probe_batch(model, None))
    )


def _merged(model: Student) -> Student:
    most = largest_rank(model)
    if not isinstance(model, TransformerStudent):
        return factorize_table(model, most)
    merged = _with_kernels(model, {}, None, set())
    if model.table_rank is None:
        return merged
    plain = resized(merged, own=["token_embedding"], table_rank=None)
    plain.token_embedding.assign(full_table(model))
    return plain


def _ranks(model: Any) -> dict[str, tuple[int, int]]:
    """What each kernel and the table is stored as, and the most it could be of."""
    if isinstance(model, StaticStudent):
        return {TABLE: (model.embedding_dim, min(model.embedding_dim, model.output_dim))}
    shapes = kernel_shapes(model.hidden_dim, model.intermediate_dim)
    if model.projection is not None:
        shapes[PROJECTION] = (model.hidden_dim, model.output_dim)
    most = {name: min(shape) for name, shape in shapes.items()}
    found = {name: (_ranks_of(model).get(name, full), full) for name, full in most.items()}
    return {**found, TABLE: (model.table_rank or model.hidden_dim, model.hidden_dim)}


def _steps(
    operator: str, before: dict[str, tuple[int, int]], after: dict[str, tuple[int, int]]
) -> tuple[Step, ...]:
    return tuple(
        Step(
            size=name,
            operator=operator,
            before=before[name][0],
            after=rank,
            # A rank that was not lowered below what it could hold.
            keeps_function=rank >= min(before[name][0], before[name][1]),
        )
        for name, (rank, _) in after.items()
        if rank != before[name][0]
    )


def _check_names(model: Student, ranks: Mapping[str, int]) -> None:
    known = [TABLE] if isinstance(model, StaticStudent) else [*KERNELS, PROJECTION, TABLE]
    for name in ranks:
        if name not in known:
            raise InputError(
                f"A {type(model).__name__} is factorised in {known}. Received: {name!r}. "
                "Use one of these."
            )


def _ranks_of(model: Any) -> dict[str, int]:
    return dict(getattr(model, "kernel_ranks", None) or {})


def _with_kernels(
    model: Student, ranks: dict[str, int], batch: dict[str, np.ndarray] | None, changed: set[str]
) -> Student:
    """The same student with kernels of these ranks, the changed ones fitted to a batch."""
    if not isinstance(model, TransformerStudent):
        return resized(model)
    blocks = [block.name for block in model.blocks]
    made: Any = resized(model, own=[*blocks, PROJECTION], kernel_ranks=ranks)
    moments = {} if batch is None else _moments(model, batch, changed)
    for number, (ours, theirs) in enumerate(zip(model.blocks, made.blocks, strict=True)):
        for norm in ("attention_norm", "output_norm"):
            getattr(theirs, norm).set_weights(getattr(ours, norm).get_weights())
        for name, attribute in KERNELS.items():
            moment = moments.get((number, name))
            _carry(getattr(ours, attribute), getattr(theirs, attribute), moment)
    if model.projection is not None:
        _carry(model.projection, made.projection, moments.get((-1, PROJECTION)))
    return made


def _carry(ours: Any, theirs: Any, moment: np.ndarray | None) -> None:
    """Sets a layer to what another computes, or the nearest that it can."""
    both = isinstance(ours, FactorizedDense) and isinstance(theirs, FactorizedDense)
    if type(ours) is type(theirs) and not (both and ours.rank != theirs.rank):
        theirs.set_weights(ours.get_weights())
        return
    kernel = ours.product() if isinstance(ours, FactorizedDense) else np.asarray(ours.kernel)
    arguments = [moment] if isinstance(theirs, FactorizedDense) else []
    theirs.assign(kernel, np.asarray(ours.bias), *arguments)


def _token_counts(batch: dict[str, np.ndarray], size: int) -> np.ndarray:
    return np.bincount(batch["token_ids"][batch["padding_mask"] == 1], minlength=size)


def _moments(model: TransformerStudent, batch: dict[str, np.ndarray], names: set[str]) -> Moments:
    """Second moments of what the layers read, over the real tokens."""
    sums: Moments = {}

    def add(key: tuple[int, str], rows: np.ndarray) -> None:
        sums[key] = sums.get(key, 0.0) + rows.T @ rows

    for part in batches_of(batch):
        real = part["padding_mask"] == 1
        states = model.hidden_states(part, training=False)
        for number, block in enumerate(model.blocks):
            inputs = block.dense_inputs(states[number], part["padding_mask"])
            for name in names & set(inputs):
                add((number, name), np.asarray(inputs[name], np.float64)[real])
        if PROJECTION in names:
            add((-1, PROJECTION), np.asarray(model.pooled(part), np.float64))
    return sums
