"""Initialization of a static student by the least squares solution for cached targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from scipy import sparse

from kdkeras.data import DistillationSet
from kdkeras.data.pipeline import copies_by_language
from kdkeras.data.shards import read_shard
from kdkeras.errors import InputError
from kdkeras.progress import Progress, no_progress
from kdkeras.recipe import Recipe
from kdkeras.students.static import StaticStudent

__all__ = ["LeastSquaresInitialization", "initialize_from_targets"]

# `a` of Arora et al.: a token of this relative frequency has the weight 0.5.
_FREQUENT = 1e-3
# Standard deviation of the table. Updates at the default learning rate, 4e-3, are small
# compared with it.
_SPREAD = 0.1
_RECORDS_AT_ONCE = 8_192


@dataclass(frozen=True, kw_only=True)
class LeastSquaresInitialization:
    """Result of `initialize_from_targets`.

    Attributes:
        sentences: Number of sentences that were read, sources and translations.
        iterations: Number of conjugate gradient steps.
        explained: Share of the targets' weighted variance that the initialized
            student explains, from 0 to 1, before embeddings are scaled to
            length 1.
    """

    sentences: int
    iterations: int
    explained: float


def initialize_from_targets(
    student: StaticStudent,
    dataset: DistillationSet,
    *,
    language_temperature: float = Recipe.language_temperature,
    iterations: int = 8,
    ridge: float = 4.0,
    max_sentences: int = 2_000_000,
    progress: Progress = no_progress,
) -> LeastSquaresInitialization:
    """Fits an untrained static student to cached targets by least squares.

    A static student is linear in its table, so the table whose embeddings are
    nearest to the targets is the solution of linear equations. It replaces the
    first thousands of training steps, and gives a useful vector to rare tokens,
    which few training steps contain. A million sentences take about a minute on
    two cores; the memory needed is 8 bytes per token of all sentences and a few
    times the size of the table.

    Formula, with relative token frequencies `p` and centered targets `e`:

    ```
    w[i] = a / (a + p[i]),  a = 0.001                      (the token weights)
    U = first embedding_dim principal axes of e            (the projection)
    table = argmin_X sum_s(c_s * |mean_{i in s}(w[i] * X[i]) - U e_s|^2) + ridge * m * |X|^2
    ```

    where `c_s` is the mean number of times that an epoch of training contains
    sentence `s`, and `m` is the median of the diagonal of the normal equations.
    They are solved by the conjugate gradient method, preconditioned by the
    diagonal. The bias of the projection is the mean of the targets if the student
    does not normalize. Otherwise it is 0: the fitted vectors are shorter than the
    targets, so the mean would have too much weight.

    Args:
        student: The static student, with a vocabulary. It is changed.
        dataset: Distillation set with targets of width `output_dim`.
        language_temperature: As for `DistillationSet.batches`.
        iterations: Number of conjugate gradient steps, at least 1. Default 8.
        ridge: Strength of the regularization, which prevents rare tokens from
            overfitting the few sentences that contain them. Positive, default 4.
        max_sentences: Maximum number of sentences to read. They are stored in
            random order, so this is a random sample. Default two million.
        progress: Called as `progress(task, done, total)` with the number of
            sentences processed in all passes; see `kdkeras.progress.Progress`.

    Returns:
        The number of sentences and the explained variance.

    Raises:
        InputError: If the student is not static, has no vocabulary, or has
            another width than the targets; if an argument is out of range; or if
            a shard is damaged.

    References:
        Arora et al. (2017), SIF; Hestenes, Stiefel (1952).
    """
    _refuse_unfit(student, dataset, iterations, ridge)
    sentences = min(max_sentences, dataset.num_groups + dataset.num_pairs)

    def report(passes: float) -> None:
        progress("Fitting the table", int(passes * sentences), sentences * (1 + iterations))

    report(0.0)
    equations = _Equations(student.token_embedding.table.shape[0], student.output_dim)
    for batch in _batches(student, dataset, language_temperature, max_sentences):
        equations.add(*batch)
        report(min(1.0, equations.sentences / sentences))
    axes = equations.axes(min(student.embedding_dim, student.output_dim))
    table = _solve(equations, axes, iterations, ridge, report)
    _assign(student, table, axes, equations)
    return LeastSquaresInitialization(
        sentences=equations.sentences,
        iterations=iterations,
        explained=equations.explained(table, axes),
    )


def _refuse_unfit(student: Any, dataset: DistillationSet, iterations: int, ridge: float) -> None:
    if not isinstance(student, StaticStudent) or student.vocabulary is None:
        raise InputError(
            "Initialization from targets needs a static student with a vocabulary. Received: "
            f"{type(student).__name__}. Use build_student('static_256', vocabulary=...), or "
            "initialize_from_teacher for a transformer."
        )
    if student.output_dim != dataset.embedding_dim:
        raise InputError(
            "The targets must be as wide as the student's embedding. Received: targets of "
            f"{dataset.embedding_dim}, output_dim={student.output_dim}. Use "
            "output_dim=dataset.embedding_dim."
        )
    if iterations < 1:
        raise InputError(
            f"`iterations` must be at least 1. Received: iterations={iterations}. Use 8."
        )
    if not ridge > 0:
        raise InputError(f"`ridge` must be positive. Received: ridge={ridge}. Use 4.0.")


def _batches(
    student: StaticStudent,
    dataset: DistillationSet,
    language_temperature: float,
    max_sentences: int,
) -> Iterator[tuple[Any, Any, Any, Any]]:
    """Yields token ids, row lengths, weights and targets of thousands of sentences."""
    copies = copies_by_language(dataset.counts, language_temperature)
    vocabulary: Any = student.vocabulary
    read = 0
    for path in dataset.shards:
        for records in read_shard(path, _RECORDS_AT_ONCE):
            if read >= max_sentences:
                return
            translations = records["translations"]
            owner = translations.value_rowids().numpy()
            names = records["languages"].values.numpy()
            drawn = np.array([copies[name.decode()] for name in names])
            vectors = tf.io.decode_raw(records["embedding"], tf.float16).numpy()
            # Training pairs a source with each of its translations.
            weight = np.concatenate([np.bincount(owner, drawn, len(vectors)), drawn])
            texts = tf.concat([records["source"], translations.values], 0)
            tokens = vocabulary.tokenize(texts, student.sequence_length)
            read += len(weight)
            yield (
                tokens.values.numpy(),
                tokens.row_lengths().numpy(),
                weight,
                np.concatenate([vectors, vectors[owner]]).astype(np.float32),
            )


class _Equations:
    """The sums over sentences that determine the solution."""

    def __init__(self, vocabulary_size: int, width: int) -> None:
        self.blocks: list[sparse.csr_matrix] = []
        """Rows are sentences, columns tokens: `sqrt(c_s) / n_s` per token of sentence s."""
        self.counts = np.zeros(vocabulary_size, np.int64)
        self.diagonal = np.zeros(vocabulary_size)
        self.cross = np.zeros((vocabulary_size, width), np.float32)
        self.first = np.zeros(vocabulary_size)
        self.weight, self.total = 0.0, np.zeros(width)
        self.square = np.zeros((width, width))

    def add(self, ids: Any, lengths: Any, weight: Any, vectors: Any) -> None:
        """Adds sentences: `(tokens,)` ids, `(n,)` lengths and weights, `(n, d)` targets."""
        root = np.sqrt(weight)
        shares = np.repeat(root / np.maximum(lengths, 1), lengths).astype(np.float32)
        starts = np.concatenate([[0], np.cumsum(lengths)])
        block = sparse.csr_matrix((shares, ids, starts), (len(lengths), len(self.counts)))
        weighted = (root[:, None] * vectors).astype(np.float32)
        self.blocks.append(block)
        self.counts += np.bincount(ids, minlength=len(self.counts))
        self.diagonal += np.bincount(ids, shares**2, len(self.counts))
        self.cross += block.T @ weighted
        self.first += block.T @ root
        self.weight += weight.sum()
        self.total += weight @ vectors
        self.square += weighted.T @ weighted

    @property
    def sentences(self) -> int:
        """Number of sentences added."""
        return sum(block.shape[0] for block in self.blocks)

    @property
    def mean(self) -> np.ndarray:
        """The targets' weighted mean, `(d,)`."""
        return self.total / self.weight

    @property
    def covariance(self) -> np.ndarray:
        """The targets' weighted covariance, `(d, d)`."""
        return self.square / self.weight - np.outer(self.mean, self.mean)

    @property
    def token_weights(self) -> np.ndarray:
        """`a / (a + p)`, `(V, 1)` float32."""
        frequency = self.counts / max(1, self.counts.sum())
        return (_FREQUENT / (_FREQUENT + frequency)).astype(np.float32)[:, None]

    def axes(self, width: int) -> np.ndarray:
        """The targets' first principal axes, `(width, d)` float32."""
        _, vectors = np.linalg.eigh(self.covariance)
        return np.ascontiguousarray(vectors[:, ::-1][:, :width].T, np.float32)

    def right_side(self, axes: np.ndarray) -> np.ndarray:
        """Right-hand side of the normal equations, `(V, width)`."""
        centered = self.cross - np.outer(self.first, self.mean).astype(np.float32)
        return self.token_weights * (centered @ axes.T)

    def product(self, table: np.ndarray) -> np.ndarray:
        """Product of the normal equations' matrix, without the ridge, and a table."""
        weighted = self.token_weights * table
        result = np.zeros_like(table)
        for block in self.blocks:
            result += block.T @ (block @ weighted)
        return self.token_weights * result

    def explained(self, table: np.ndarray, axes: np.ndarray) -> float:
        """Share of the variance of the targets that a table explains."""
        gained = 2 * np.vdot(table, self.right_side(axes)) - np.vdot(table, self.product(table))
        return float(gained / (self.weight * np.trace(self.covariance)))


def _solve(
    equations: _Equations,
    axes: np.ndarray,
    iterations: int,
    ridge: float,
    report: Callable[[float], None],
) -> np.ndarray:
    """Solves for the table `(V, width)` by preconditioned conjugate gradients per column."""
    diagonal = equations.diagonal[:, None] * equations.token_weights**2
    added = np.float32(ridge * np.median(diagonal[diagonal > 0]))
    inverse = (1.0 / (diagonal + added)).astype(np.float32)
    residual = equations.right_side(axes)
    table = np.zeros_like(residual)
    direction = inverse * residual
    size = np.einsum("vd,vd->d", residual, direction)
    for i in range(iterations):
        image = equations.product(direction)
        image += added * direction
        rate = size / np.maximum(np.einsum("vd,vd->d", direction, image), 1e-30)
        table += rate * direction
        image *= rate
        residual -= image
        np.multiply(inverse, residual, out=image)
        size, before = np.einsum("vd,vd->d", residual, image), size
        direction *= size / np.maximum(before, 1e-30)
        direction += image
        report(2.0 + i)
    return table


def _assign(
    student: StaticStudent, table: np.ndarray, axes: np.ndarray, equations: _Equations
) -> None:
    """Sets table, token weights and projection of the student.

    Superfluous columns and the rows of tokens in no sentence keep their random
    values, so that a sentence of such tokens has an embedding other than zero.
    """
    width, seen = len(axes), equations.counts > 0
    scale = _SPREAD / max(float(table.std()), 1e-12)
    vectors = np.asarray(student.token_embedding.table).copy()
    vectors[seen, :width] = scale * table[seen]
    kernel = np.zeros(student.projection.kernel.shape, np.float32)
    kernel[:width] = axes / scale
    if student.token_weight is None:
        vectors[seen] *= equations.token_weights[seen]
    else:
        student.token_weight.assign(np.log(equations.token_weights))
    student.token_embedding.assign(vectors)
    student.projection.kernel.assign(kernel)
    student.projection.bias.assign(
        np.zeros_like(equations.mean) if student.normalize else equations.mean
    )
