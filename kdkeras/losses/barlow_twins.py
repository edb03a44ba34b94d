"""Dimensions that correlate across languages, and not with each other (Barlow Twins)."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.losses.base import AlignmentLoss
from kdkeras.losses.checks import not_negative
from kdkeras.replicas import all_rows

__all__ = ["BarlowTwins"]


@keras.saving.register_keras_serializable(package="kdkeras")
class BarlowTwins(AlignmentLoss):
    """Computes how far the correlations of dimensions are from the identity matrix (Barlow Twins).

    Each dimension of the source embeddings should correlate with the same
    dimension of the translations, and with no other. The loss does not depend
    on the scale and mean of a dimension, and needs no teacher and no negatives.
    Use it if there is no teacher for the data; with one, `TranslationRanking`
    with the distillation losses is stronger. Correlations are those of the
    batch of all replicas, which needs at least two examples, better several
    hundred: with few examples all correlations are large.

    Cost: one `d x d` matrix over the batch of all replicas.

    Formula:

    ```
    c[j, k] = pearson(source[:, j], translation[:, k])      # 0 where one is constant
    loss[i] = sum_j((1 - c[j, j])^2) + redundancy_weight * sum_{j != k}(c[j, k]^2)
    ```

    the same for every `i`.

    Args:
        redundancy_weight: Weight of the correlations between different
            dimensions, at least 0. Defaults to 0.005.

    Call arguments:
        source: `(B, d)` float, the student's embeddings of the sentences.
        translation: `(B, d)` float, the student's embeddings of their
            translations.

    Returns:
        `(B,)` float32, from 0 to `4 d + redundancy_weight * d (d - 1)`.

    Raises:
        InputError: If `redundancy_weight` is negative.

    References:
        Zbontar et al. (2021), arXiv:2103.03230, equations 1 and 2.
    """

    compares_rows = True

    def __init__(
        self, redundancy_weight: float = 0.005, name: str = "barlow_twins", **kwargs: Any
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.redundancy_weight = not_negative("redundancy_weight", redundancy_weight)

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
    """Columns of mean 0 and length 1; 0, with no gradient, where a column is constant."""
    centered = every - ops.mean(every, axis=0)
    square = ops.sum(ops.square(centered), axis=0)
    # A smaller spread is rounding error.
    varies = square > 1e-10 * (1.0 + ops.sum(ops.square(every), axis=0))
    scale = ops.rsqrt(ops.where(varies, square, 1.0))
    return ops.where(varies, centered * scale, 0.0)
