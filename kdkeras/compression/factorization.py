"""Kernels and token tables as products of two narrow matrices, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdkeras.compression.rebuilding import resized
from kdkeras.errors import InputError
from kdkeras.layers import FactorizedDense, FactorizedEmbedding
from kdkeras.layers.factorized_embedding import low_rank_factors
from kdkeras.layers.transformer_block import KERNELS, kernel_shapes
from kdkeras.students import StaticStudent, Student, TransformerStudent
from kdkeras.students.certificate import Step
from kdkeras.students.comparison import (
    batches_of,
    certify,
    compare,
    embed,
    probe_batch,
    with_certificate,
)

__all__ = ["factorize", "factorize_table", "largest_rank", "merge"]

TABLE, PROJECTION = "table", "projection"

# Relative difference of embeddings that counts as rounding.
_TOLERANCE = 1e-6

Moments = dict[tuple[int, str], np.ndarray]
"""Mean of `x x^T` over the inputs of a dense layer, by block and layer; projection at -1."""


# ---- kernels and tables ----


def factorize(
    model: Student,
    ranks: Mapping[str, int],
    probe: Sequence[str] | dict[str, Any] | None = None,
) -> Student:
    """Stores kernels, and the token table, as products of two narrow matrices.

    Formula, for a kernel `W` of shape `(d, o)` and its inputs on the probe, the rows of
    `X`:

    ```
    A, B = argmin |X (W - A B)|^2 = (W V, V^T),   V: the first eigenvectors of W^T X^T X W
    ```

    and `argmin |W - A B|^2` without a probe. The product is smaller and faster than the
    kernel if the rank is below `d o / (d + o)`. At the full rank, `min(d, o)`, the
    function is preserved. Biases are unchanged. Further training changes the two factors
    and therefore keeps the rank.

    Args:
        model: A `TransformerStudent` or a `StaticStudent`. It is not modified.
        ranks: Ranks by name. For a Transformer: `qkv`, `attention_output`,
            `intermediate`, `feedforward` (each in every block), `projection`, and
            `table`, the token table. For a static student: `table`, which is factorized
            together with the projection (see `factorize_table`).
        probe: A few hundred real texts, or `{"token_ids", "padding_mask"}`, on which the
            error of the products is minimized; for a table, frequent tokens become more
            exact. None (the default) to weigh all directions and tokens equally.

    Returns:
        A new student, which can be saved and exported as any other. Its `certificate`
        (`kdkeras.students.Certificate`) describes the loss on the probe, or on random
        token ids.

    Raises:
        InputError: If the model is of another class, a name is unknown, a rank is out of
            range, or the probe is malformed.

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
        made = _with_kernels(model, {**_kernel_ranks(model), **kernels}, batch, set(kernels))
    if TABLE in ranks:
        counts = None if batch is None else _counts_of(batch, int(model.vocabulary_size or 0))
        made = factorize_table(made, ranks[TABLE], counts)
    return _certified("Factorize", model, made, compared)


def merge(model: Student) -> Student:
    """Multiplies every product of linear layers to one kernel or table.

    The inverse of `factorize`, also for students that were trained as products
    (`TransformerStudent(kernel_ranks=..., table_rank=...)`). The merged student is larger
    on disk, but computes one product in place of two, and can `grow`. In a static
    student, token weights, table and projection are one product as well; it becomes a
    table with the minimum number of columns and a projection. Embeddings change by at
    most 1e-6.

    Args:
        model: A `TransformerStudent` or a `StaticStudent`. It is not modified.

    Returns:
        A new student. Its `certificate` (`kdkeras.students.Certificate`) describes the
        difference on random token ids.

    Raises:
        InputError: If the model is of another class.
    """
    return _certified("Merge", model, _merged(model), probe_batch(model, None))


def _merged(model: Student) -> Student:
    maximum = largest_rank(model)
    if not isinstance(model, TransformerStudent):
        return factorize_table(model, maximum)
    merged = _with_kernels(model, {}, None, set())
    if model.table_rank is None:
        return merged
    plain = resized(merged, own=["token_embedding"], table_rank=None)
    plain.token_embedding.assign(_full_table(model))
    return plain


def _certified(
    operator: str, model: Any, made: Any, probe: tuple[dict[str, np.ndarray], str]
) -> Student:
    """Compares the new student with the old one, and sets its certificate."""
    found = compare(embed(model, probe[0]), embed(made, probe[0]))
    steps = _steps(operator, _ranks(model), _ranks(made))
    return with_certificate(made, certify((model, made), steps, found, _TOLERANCE, probe))


def _ranks(model: Any) -> dict[str, tuple[int, int]]:
    """Returns the rank of each kernel and of the table, and its maximum."""
    if isinstance(model, StaticStudent):
        return {TABLE: (model.embedding_dim, min(model.embedding_dim, model.output_dim))}
    shapes = kernel_shapes(model.hidden_dim, model.intermediate_dim)
    if model.projection is not None:
        shapes[PROJECTION] = (model.hidden_dim, model.output_dim)
    maxima = {name: min(shape) for name, shape in shapes.items()}
    found = {name: (_kernel_ranks(model).get(name, full), full) for name, full in maxima.items()}
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
            # The rank is not below the rank of the old product.
            keeps_function=rank >= min(before[name]),
        )
        for name, (rank, _) in after.items()
        if rank != before[name][0]
    )


def _check_names(model: Student, ranks: Mapping[str, int]) -> None:
    known = [TABLE] if isinstance(model, StaticStudent) else [*KERNELS, PROJECTION, TABLE]
    for name in ranks:
        if name not in known:
            raise InputError(
                f"The names in `ranks` for a {type(model).__name__} are {known}. "
                f"Received: {name!r}. Use one of these."
            )


def _kernel_ranks(model: Any) -> dict[str, int]:
    return dict(getattr(model, "kernel_ranks", None) or {})


def _with_kernels(
    model: Student, ranks: dict[str, int], batch: dict[str, np.ndarray] | None, changed: set[str]
) -> Student:
    """Returns the student with kernels of these ranks; the changed ones fit the batch."""
    if not isinstance(model, TransformerStudent):
        return model.clone()
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
    """Sets a dense layer to the function of another, or the nearest one of its rank."""
    both = isinstance(ours, FactorizedDense) and isinstance(theirs, FactorizedDense)
    if type(ours) is type(theirs) and not (both and ours.rank != theirs.rank):
        theirs.set_weights(ours.get_weights())
        return
    kernel = ours.product() if isinstance(ours, FactorizedDense) else np.asarray(ours.kernel)
    arguments = [moment] if isinstance(theirs, FactorizedDense) else []
    theirs.assign(kernel, np.asarray(ours.bias), *arguments)


def _counts_of(batch: dict[str, np.ndarray], size: int) -> np.ndarray:
    return np.bincount(batch["token_ids"][batch["padding_mask"] == 1], minlength=size)


def _moments(model: TransformerStudent, batch: dict[str, np.ndarray], names: set[str]) -> Moments:
    """Returns the second moments of the inputs of the layers, without padding."""
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


# ---- the token table ----


def factorize_table(student: Student, rank: int, token_counts: np.ndarray | None = None) -> Student:
    """Stores a trained student's token table with `rank` columns.

    The embedding of a static student is linear in its table and its projection. Their
    product, including the token weights, has shape `(V, output_dim)` and is factorized
    again, so that both become narrower and no layer is added. At the full rank, the
    smaller of `embedding_dim` and `output_dim`, embeddings are unchanged up to rounding
    and the token weights are saved. The table of a Transformer becomes a
    `kdkeras.layers.FactorizedEmbedding`.

    Formula, with token frequencies `f`:

    ```
    static:      argmin sum_i(f[i] * |exp(w[i]) * table[i] @ kernel - narrow[i] @ new_kernel|^2)
    transformer: argmin sum_i(f[i] * |table[i] - narrow[i] @ widen|^2)
    ```

    Args:
        student: A `StaticStudent` or a `TransformerStudent`. It is not modified.
        rank: Number of columns of the stored table. For a static student at most
            `min(embedding_dim, output_dim)`, for a Transformer less than its table's.
        token_counts: Uses of each token, `(vocabulary_size,)`, from
            `kdkeras.compression.token_counts`. Frequent tokens become more exact. None
            (the default) to weigh all tokens equally.

    Returns:
        A new student.

    Raises:
        InputError: If the student is of another class, the rank is out of range, or the
            counts do not fit.

    References:
        Eckart, Young (1936); Lan et al. (2020), ALBERT, arXiv:1909.11942.
    """
    maximum = largest_rank(student)
    if not 1 <= rank <= maximum:
        raise InputError(
            f"`rank` must be from 1 to {maximum} for this student. Received: rank={rank}. "
            f"Use {maximum} for the smallest error."
        )
    counts = _checked_counts(token_counts, student.token_embedding.vocabulary_size)
    if isinstance(student, StaticStudent):
        return _factorized_static(student, int(rank), counts)
    copy = resized(student, own=["token_embedding"], table_rank=int(rank))
    copy.token_embedding.assign(_full_table(student), counts)
    return copy


def largest_rank(student: Student) -> int:
    """Returns the maximum rank for `factorize_table`.

    Raises:
        InputError: If it is neither a static student nor a Transformer.
    """
    if isinstance(student, StaticStudent):
        return min(student.embedding_dim, student.output_dim)
    if isinstance(student, TransformerStudent):
        return (student.table_rank or student.hidden_dim) - 1
    raise InputError(
        "The student must be a StaticStudent or a TransformerStudent. "
        f"Received: {type(student).__name__}. Use one of kdkeras.students."
    )


def _factorized_static(
    student: StaticStudent, rank: int, counts: np.ndarray | None
) -> StaticStudent:
    table = _exact(student.token_embedding.table)
    if student.token_weight is not None:
        table = table * np.exp(_exact(student.token_weight.table))
    product = table @ _exact(student.projection.kernel)
    narrow, kernel = low_rank_factors(product, rank, counts)
    copy = student.clone(copy_weights=False, embedding_dim=rank, token_weights=False)
    copy.token_embedding.assign(narrow)
    copy.projection.set_weights([kernel, student.projection.bias])
    return copy


def _full_table(student: TransformerStudent) -> np.ndarray:
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
            f"`token_counts` must be {size} numbers of at least 0, one per token, not all of them "
            f"0. Received: shape {counts.shape}, minimum {counts.min(initial=0):g}. "
            "Use kdkeras.compression.token_counts."
        )
    return counts
