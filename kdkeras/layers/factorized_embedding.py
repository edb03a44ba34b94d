"""A table of token vectors stored as the product of two narrow matrices."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kdkeras.layers.embedding_table import EmbeddingTable
from kdkeras.layers.quantizable_dense import QuantizableDense

__all__ = ["FactorizedEmbedding", "low_rank_factors"]


# Minimum variance of each direction, as a share of the mean variance of the inputs.
_MIN_VARIANCE = 1e-6


def low_rank_factors(
    matrix: np.ndarray, rank: int, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Finds the product of two narrow matrices that is nearest to a matrix.

    Formula, for `difference = matrix - left @ right`:

    ```
    rows:   left, right = argmin sum_i(weights[i] * |difference[i]|^2)
    inputs: left, right = argmin sum_x |x @ difference|^2,   weights = mean of x x^T
    both:   left = matrix @ V, right = V^T, V the first eigenvectors of matrix^T S matrix,
            S = diag(weights) or weights
    ```

    This is the truncated singular value decomposition of `S^(1/2) matrix`; it does
    not need the inverse of `S`. The columns of `left` are rotated so that they have
    about the same variance, which does not change the product: the single scale
    that int8 and int4 tables have per row then fits all columns.

    Args:
        matrix: `(n, d)` float.
        rank: Number of columns of `left`, from 1 to `d`. If it is at least the rank
            of `matrix`, the product equals `matrix` up to rounding.
        weights: `(n,)`, one non-negative weight per row, not all 0; or `(n, n)`, the
            second moment of the inputs of the matrix, to which a millionth of its
            mean variance is added so that other inputs count too. None (the
            default) gives all rows the same weight.

    Returns:
        `left` `(n, rank)` and `right` `(rank, d)`, float64. The rows of `right`
        are orthonormal.

    References:
        Eckart, Young (1936); weighted by inputs: Yuan et al. (2023), ASVD,
        arXiv:2312.05821; Wang et al. (2024), SVD-LLM, arXiv:2403.07378, whose
        whitened truncation this is.
    """
    matrix = np.asarray(matrix, np.float64)
    if weights is not None and np.ndim(weights) == 2:
        axes = _axes_of_outputs(matrix, np.asarray(weights, np.float64))
    else:
        weighted = matrix if weights is None else matrix * np.asarray(weights)[:, None]
        axes = np.linalg.eigh(weighted.T @ matrix)[1][:, ::-1]
    rotation, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(rank, rank)))
    axes = axes[:, :rank] @ rotation
    return matrix @ axes, axes.T


def _axes_of_outputs(matrix: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Principal directions of `x @ matrix` in columns, by decreasing variance."""
    variances, axes = np.linalg.eigh(moment)
    minimum = _MIN_VARIANCE * variances.mean()
    root = np.sqrt(np.maximum(variances, 0.0) + minimum)[:, None] * axes.T
    return np.linalg.svd(root @ matrix)[2].T


@keras.saving.register_keras_serializable(package="kdkeras")
class FactorizedEmbedding(keras.layers.Layer):
    """Looks up one narrow vector per token and widens it.

    Stores `vocabulary_size * rank` values instead of `vocabulary_size * dim`,
    and one small matrix.

    Formula:

    ```
    vector(i) = table[i] @ kernel
    ```

    Args:
        vocabulary_size: Number of rows of the table.
        dim: Width of the vectors.
        rank: Number of columns of the table.
        initializer: Initializer of the table. Default `"uniform"`.

    Call arguments:
        token_ids: `(B, L)` int32, each in `[0, vocabulary_size)`.

    Returns:
        `(B, L, dim)` in the layer's compute dtype.

    References:
        Lan et al. (2020), ALBERT, arXiv:1909.11942, section 3.1.
    """

    def __init__(
        self,
        vocabulary_size: int,
        dim: int,
        rank: int,
        initializer: Any = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.vocabulary_size = int(vocabulary_size)
        self.dim = int(dim)
        self.rank = int(rank)
        self.initializer = keras.initializers.get(initializer)
        policy = self.dtype_policy
        self.rows = EmbeddingTable(
            vocabulary_size, rank, self.initializer, dtype=policy, name="rows"
        )
        self.expand = QuantizableDense(dim, use_bias=False, dtype=policy, name="expand")

    def build(self, input_shape: Any) -> None:
        """Creates both matrices."""
        self.rows.build(input_shape)
        self.expand.build((None, None, self.rank))
        self.built = True

    @property
    def table(self) -> Any:
        """The stored table, `(vocabulary_size, rank)`."""
        return self.rows.table

    def assign(self, vectors: np.ndarray, row_weights: np.ndarray | None = None) -> None:
        """Sets both matrices to the product nearest to `vectors`.

        Args:
            vectors: `(vocabulary_size, dim)` float.
            row_weights: `(vocabulary_size,)`, weight of each token's error. None
                (the default) gives all tokens the same weight.
        """
        table, kernel = low_rank_factors(vectors, self.rank, row_weights)
        self.rows.assign(table)
        self.expand.set_weights([kernel])

    def call(self, token_ids: Any) -> Any:
        """Returns the vectors of the tokens."""
        return self.expand(self.rows(token_ids))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the input's shape with `dim` added."""
        return (*input_shape, self.dim)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "dim": self.dim,
            "rank": self.rank,
            "initializer": keras.initializers.serialize(self.initializer),
        }
