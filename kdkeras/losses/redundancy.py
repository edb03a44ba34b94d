"""Dimensions of an embedding that say something, each something else."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses.arguments import positive
from kdkeras.losses.base import AlignmentLoss
from kdkeras.replicas import all_rows

__all__ = ["BarlowTwins", "VICReg"]


def _weight(name: str, value: float) -> float:
    if not value >= 0:
        raise InputError(
            f"`{name}` must be 0 or more. Received: {name}={value}. Use 0.0 to leave the term out."
        )
    return float(value)


@keras.saving.register_keras_serializable(package="kdkeras")
class VICReg(AlignmentLoss):
    """Pulls translations together while each dimension keeps its spread (VICReg).

    Needs no teacher: the spread is what keeps all sentences from becoming one
    vector. Dimensions are those of the batch of all replicas, two rows or
    more. Cost: two `d x d` matrices over that batch.

    Formula, with `n` rows, variances and covariances divided by `n - 1`:

    ```
    invariance[i] = sum_j((source[i, j] - translation[i, j])^2)
    variance(z) = mean_j(max(0, target_std - sqrt(var(z[:, j]) + 1e-4)))
    covariance(z) = sum_{j != k}(cov(z)[j, k]^2) / d
    loss[i] = invariance_weight * invariance[i]
            + variance_weight * (variance(source) + variance(translation))
            + covariance_weight * (covariance(source) + covariance(translation))
    ```

    Args:
        invariance_weight: 0 or more. Defaults to 25.
        variance_weight: 0 or more. Defaults to 25.
        covariance_weight: 0 or more. Defaults to 1.
        target_std: Standard deviation that each dimension should have, above
            0. Defaults to the paper's 1.0; embeddings of length 1 cannot have
            more than `1 / sqrt(d)`, which is what to ask of them.

    Call arguments:
        source: `(B, d)` float, the student's embeddings of the sentences.
        translation: `(B, d)` float, of their translations.

    Returns:
        `(B,)` float32, at least 0.

    Raises:
        InputError: If an argument is out of its range.

    References:
        Bardes et al. (2022), arXiv:2105.04906, equations 1 to 6.
    """

    compares_rows = True

    def __init__(
        self,
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        target_std: float = 1.0,
        name: str = "variance_covariance",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.invariance_weight = _weight("invariance_weight", invariance_weight)
        self.variance_weight = _weight("variance_weight", variance_weight)
        self.covariance_weight = _weight("covariance_weight", covariance_weight)
        self.target_std = positive("target_std", target_std)

    def call(self, source: Any, translation: Any) -> Any:
        """Returns the loss of each pair, `(B,)`."""
        source, translation = (ops.cast(side, "float32") for side in (source, translation))
        invariance = ops.sum(ops.square(source - translation), axis=-1)
        spread = self._spread(source) + self._spread(translation)
        return self.invariance_weight * invariance + spread

    def _spread(self, rows: Any) -> Any:
        """The weighted terms of one side, a scalar."""
        every = all_rows(rows)
        centred, freedom = every - ops.mean(every, axis=0), ops.shape(every)[0] - 1
        matrix = ops.matmul(ops.transpose(centred), centred)
        matrix = matrix / ops.maximum(ops.cast(freedom, "float32"), 1.0)  # (d, d)
        variance = ops.diagonal(matrix)
        lacking = ops.relu(self.target_std - ops.sqrt(variance + 1e-4))
        off_diagonal = matrix * (1.0 - ops.eye(rows.shape[-1]))
        covariance = ops.mean(ops.sum(ops.square(off_diagonal), axis=-1))
        return self.variance_weight * ops.mean(lacking) + self.covariance_weight * covariance

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "invariance_weight": self.invariance_weight,
            "variance_weight": self.variance_weight,
            "covariance_weight": self.covariance_weight,
            "target_std": self.target_std,
        }


@keras.saving.register_keras_serializable(package="kdkeras")
class BarlowTwins(AlignmentLoss):
    """Makes each dimension agree across languages, and with itself alone (Barlow Twins).

    Needs no teacher, and sees neither the size nor the mean of a dimension.
    Correlations are those of the batch of all replicas, two rows or more (and
    many more than that: of few rows all correlations are large). Cost: one
    `d x d` matrix over that batch.

    Formula:

    ```
    c[j, k] = pearson(source[:, j], translation[:, k])      # 0 where one is constant
    loss[i] = sum_j((1 - c[j, j])^2) + redundancy_weight * sum_{j != k}(c[j, k]^2)
    ```

    the same for every `i`.

    Args:
        redundancy_weight: Weight of what different dimensions share, 0 or
            more. Defaults to 0.005.

    Call arguments:
        source: `(B, d)` float, the student's embeddings of the sentences.
        translation: `(B, d)` float, of their translations.

    Returns:
        `(B,)` float32, from 0 to `4 d + redundancy_weight * d (d - 1)`.

    Raises:
        InputError: If `redundancy_weight` is negative.

    References:
        Zbontar et al. (2021), arXiv:2103.03230, equations 1 and 2.
    """

    compares_rows = True

    def __init__(
        self, redundancy_weight: float = 0.005, name: str = "cross_correlation", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.redundancy_weight = _weight("redundancy_weight", redundancy_weight)

    def call(self, source: Any, translation: Any) -> Any:
        """Returns the batch's value for each pair, `(B,)`."""
        source, translation = (ops.cast(side, "float32") for side in (source, translation))
        a, b = (_standard_columns(all_rows(side)) for side in (source, translation))
        correlation = ops.matmul(ops.transpose(a), b)  # (d, d)
        same = ops.eye(source.shape[-1])
        square = ops.square(correlation - same)
        value = ops.sum(square * (same + self.redundancy_weight * (1.0 - same)))
        return value * ops.ones_like(source[:, 0])

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "redundancy_weight": self.redundancy_weight}


def _standard_columns(every: Any) -> Any:
    """Columns of mean 0 and length 1; 0, without a slope, where all but rounding is constant."""
    centred = every - ops.mean(every, axis=0)
    square = ops.sum(ops.square(centred), axis=0)
    varies = square > 1e-10 * (1.0 + ops.sum(ops.square(every), axis=0))
    scale = ops.rsqrt(ops.where(varies, square, 1.0))
    return ops.where(varies, centred * scale, 0.0)
