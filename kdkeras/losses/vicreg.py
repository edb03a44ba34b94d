"""Equal translations in dimensions that vary and are not redundant (VICReg)."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.losses.base import AlignmentLoss
from kdkeras.losses.checks import not_negative, positive
from kdkeras.replicas import all_rows

__all__ = ["VICReg"]


@keras.saving.register_keras_serializable(package="kdkeras")
class VICReg(AlignmentLoss):
    """Computes the distance of translations, plus the variance and covariance terms of VICReg.

    The variance term prevents the embeddings of all sentences from becoming
    equal, so it needs no teacher and no negatives. Use it if there is no
    teacher for the data; with one, `TranslationRanking` with the distillation
    losses is stronger. Variances and covariances are those of the batch of all
    replicas, which needs at least two examples, better several hundred.

    Cost: two `d x d` matrices over the batch of all replicas.

    Formula, where variances and covariances of `n` examples divide by `n - 1`:

    ```
    invariance[i] = sum_j((source[i, j] - translation[i, j])^2)
    variance(z) = mean_j(max(0, target_std - sqrt(var(z[:, j]) + 1e-4)))
    covariance(z) = sum_{j != k}(cov(z)[j, k]^2) / d
    loss[i] = invariance_weight * invariance[i]
            + variance_weight * (variance(source) + variance(translation))
            + covariance_weight * (covariance(source) + covariance(translation))
    ```

    Args:
        invariance_weight: Weight of the distance, at least 0. Defaults to 25.
        variance_weight: Weight of the variance term, at least 0. Defaults to
            25.
        covariance_weight: Weight of the covariance term, at least 0. Defaults
            to 1.
        target_std: Standard deviation that each dimension should reach, above
            0. Defaults to the paper's 1.0. Use `1 / sqrt(d)` for embeddings of
            length 1, which cannot exceed it.

    Call arguments:
        source: `(B, d)` float, the student's embeddings of the sentences.
        translation: `(B, d)` float, the student's embeddings of their
            translations.

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
        name: str = "vicreg",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.invariance_weight = not_negative("invariance_weight", invariance_weight)
        self.variance_weight = not_negative("variance_weight", variance_weight)
        self.covariance_weight = not_negative("covariance_weight", covariance_weight)
        self.target_std = positive("target_std", target_std)

    def call(self, source: Any, translation: Any) -> Any:
        """Returns the loss of each pair, `(B,)`."""
        source, translation = (ops.cast(side, "float32") for side in (source, translation))
        invariance = ops.sum(ops.square(source - translation), axis=-1)
        regularization = self._regularization(source) + self._regularization(translation)
        return self.invariance_weight * invariance + regularization

    def _regularization(self, rows: Any) -> Any:
        """The weighted variance and covariance terms of one side, a scalar."""
        every = all_rows(rows)
        centered, freedom = every - ops.mean(every, axis=0), ops.shape(every)[0] - 1
        matrix = ops.matmul(ops.transpose(centered), centered)
        matrix = matrix / ops.maximum(ops.cast(freedom, "float32"), 1.0)  # (d, d)
        missing = ops.relu(self.target_std - ops.sqrt(ops.diagonal(matrix) + 1e-4))
        off_diagonal = matrix * (1.0 - ops.eye(rows.shape[-1]))
        covariance = ops.mean(ops.sum(ops.square(off_diagonal), axis=-1))
        return self.variance_weight * ops.mean(missing) + self.covariance_weight * covariance

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "invariance_weight": self.invariance_weight,
            "variance_weight": self.variance_weight,
            "covariance_weight": self.covariance_weight,
            "target_std": self.target_std,
        }
