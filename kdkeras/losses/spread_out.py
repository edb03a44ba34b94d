"""Embeddings of unrelated sentences, spread over the unit sphere."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.layers.pooling import l2_normalize
from kdkeras.losses.base import AlignmentLoss
from kdkeras.losses.formulas import cosine_matrix
from kdkeras.replicas import all_rows, own_rows

__all__ = ["SpreadOut"]


@keras.saving.register_keras_serializable(package="kdkeras")
class SpreadOut(AlignmentLoss):
    """Computes how far the cosines of unrelated sentences are from those of uniform points.

    The cosine of two independent points that are uniform on the unit sphere
    has mean 0 and second moment `1 / d`. Use the loss with a small weight if
    the cosines of unrelated sentences are all high. It needs no teacher, and
    does not replace the losses that train meaning: `TranslationRanking` also
    separates unrelated sentences, and pulls translations together.

    Cost: one `B x N` matrix, where `N` is the batch of all replicas.

    Formula, over the pairs of a sentence and a translation of another sentence:

    ```
    c[i, j] = cos(source[i], translation[j]),  i != j
    loss[i] = mean(c)^2 + max(0, mean(c^2) - 1 / d)      # the same for every i
    ```

    Call arguments:
        source: `(B, d)` float, the student's embeddings of the sentences.
        translation: `(B, d)` float, the student's embeddings of their
            translations.
        source_id: `(B,)` int, equal for examples of one source sentence, which
            are then not compared. Optional.

    Returns:
        `(B,)` float32, from 0 to 2; 0 if there is no pair to compare.

    References:
        Zhang et al. (2017), arXiv:1708.06320, the global orthogonal
        regularization.
    """

    takes = {"source_id": "source_id"}
    compares_rows = True

    def __init__(self, name: str = "spread_out", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, source: Any, translation: Any, source_id: Any = None) -> Any:
        """Returns the batch's value for each example, `(B,)`."""
        source = l2_normalize(ops.cast(source, "float32"))
        every = all_rows(l2_normalize(ops.cast(translation, "float32")))
        others = 1.0 - own_rows(source, every)  # (own batch, batch of all replicas)
        if source_id is not None:
            same = ops.equal(source_id[:, None], all_rows(source_id)[None, :])
            others = others * (1.0 - ops.cast(same, "float32"))
        cosine = cosine_matrix(source, every) * others
        # `all_rows` and a sum, because no gradient flows through `replicas.total`.
        sums = ops.stack([ops.sum(x, axis=-1) for x in (others, cosine, ops.square(cosine))], -1)
        count, first, second = ops.unstack(ops.sum(all_rows(sums), axis=0), 3)
        first, second = ops.divide_no_nan(first, count), ops.divide_no_nan(second, count)
        value = ops.square(first) + ops.relu(second - 1.0 / source.shape[-1])
        return value * ops.ones_like(source[:, 0])
