"""Sentences that are not translations of each other, spread over the sphere."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.layers.pooling import l2_normalize
from kdkeras.losses.base import AlignmentLoss
from kdkeras.replicas import all_rows, own_rows

__all__ = ["SpreadOut"]


@keras.saving.register_keras_serializable(package="kdkeras")
class SpreadOut(AlignmentLoss):
    """Asks for the cosines that points spread evenly over the sphere have.

    Of two independent even points the cosine has mean 0 and second moment
    `1 / d`. Needs no teacher; it teaches nothing about meaning, and is added
    with a small weight to losses that do. Cost: one `B x N` matrix, over the
    batch of all replicas.

    Formula, over the pairs of a sentence and what is not its translation:

    ```
    c[i, j] = cos(source[i], translation[j]),  i != j
    loss[i] = mean(c)^2 + max(0, mean(c^2) - 1 / d)      # the same for every i
    ```

    Call arguments:
        source: `(B, d)` float, the student's embeddings of the sentences.
        translation: `(B, d)` float, of their translations.
        source_id: `(B,)` int, equal for rows of one source sentence: such rows
            are no pair to spread. Optional.

    Returns:
        `(B,)` float32, from 0 to 2; 0 without a pair.

    References:
        Zhang et al. (2017), arXiv:1708.06320, the global orthogonal
        regularisation.
    """

    takes = {"source_id": "source_id"}
    compares_rows = True

    def __init__(self, name: str = "spread_out", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)

    def call(self, source: Any, translation: Any, source_id: Any = None) -> Any:
        """Returns the batch's value for each pair, `(B,)`."""
        source = l2_normalize(ops.cast(source, "float32"))
        every = all_rows(l2_normalize(ops.cast(translation, "float32")))
        others = 1.0 - own_rows(source, every)  # (own batch, batch of all replicas)
        if source_id is not None:
            same = ops.equal(source_id[:, None], all_rows(source_id)[None, :])
            others = others * (1.0 - ops.cast(same, "float32"))
        cosine = ops.matmul(source, ops.transpose(every)) * others
        # Gathered, not added up: the gradient of a row is what all replicas say of it.
        sums = ops.stack([ops.sum(x, axis=-1) for x in (others, cosine, ops.square(cosine))], -1)
        count, first, second = ops.unstack(ops.sum(all_rows(sums), axis=0), 3)
        first, second = ops.divide_no_nan(first, count), ops.divide_no_nan(second, count)
        value = ops.square(first) + ops.relu(second - 1.0 / source.shape[-1])
        return value * ops.ones_like(source[:, 0])
