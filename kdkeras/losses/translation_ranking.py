"""The ranking of translations within a batch, which aligns languages."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.layers.pooling import l2_normalize
from kdkeras.losses.base import AlignmentLoss
from kdkeras.losses.checks import not_negative, scheduled
from kdkeras.losses.formulas import MASKED, cosine_matrix
from kdkeras.replicas import all_rows, own_rows
from kdkeras.schedules import serialized, value_at

__all__ = ["TranslationRanking"]


@keras.saving.register_keras_serializable(package="kdkeras")
class TranslationRanking(AlignmentLoss):
    """Computes the cross-entropy of finding a sentence's translation within the batch.

    Both directions are averaged: the translation of a sentence among all
    translations, and the source of a translation among all sources. Use it
    whenever there are translations: of all losses it improves retrieval across
    languages most, and larger batches make it stronger. Under a
    `tf.distribute` strategy the other translations are those of all replicas.
    Examples with the same source sentence are not negatives of each other; with
    `guide_margin`, nor are examples that the teacher finds about as similar as
    the pair itself.

    Cost: two `B x N` matrices, where `N` is the batch of all replicas; a third
    with `guide_margin`.

    Formula, where `c[i, j] = cos(source[i], translation[j])`:

    ```
    z[i, j] = scale * (c[i, j] - margin * (i == j))
    loss[i] = -(log_softmax(z, axis=1)[i, i] + log_softmax(z, axis=0)[i, i]) / 2
    ```

    Args:
        margin: Subtracted from the cosine of the true pair, at least 0.
            Defaults to 0.3.
        scale: Factor of every cosine (the inverse temperature), above 0; a
            float, or a schedule of the step. Defaults to 20.0.
        guide_margin: `j` is not a negative of `i` where the teacher's
            `cos(i, j) > 1 - guide_margin`; at least 0. Defaults to None: the
            teacher is not used.

    Call arguments:
        source: `(B, d)` float, the student's embeddings of the sentences.
        translation: `(B, d)` float, the student's embeddings of their
            translations.
        source_id: `(B,)` int, equal for examples of one source sentence.
            Optional.
        teacher: `(B, d')` float, the teacher's embeddings of the sentences.
            Required with `guide_margin`.
        step: Number of completed updates, an int scalar. Required if `scale`
            is a schedule.

    Returns:
        `(B,)` float32, at least 0, in nats; 0 for a batch of size one.

    Raises:
        InputError: If an argument is out of its range, or the teacher's
            embeddings are missing with `guide_margin`.

    References:
        Yang et al. (2019), arXiv:1902.08564, equation 4; Feng et al. (2022),
        LaBSE, arXiv:2007.01852; Solatorio (2024), GISTEmbed, arXiv:2402.16829.
    """

    takes = {"source_id": "source_id", "step": "step"}
    compares_rows = True

    def __init__(
        self,
        margin: float = 0.3,
        scale: Any = 20.0,
        guide_margin: float | None = None,
        name: str = "translation_ranking",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        self.margin = not_negative("margin", margin)
        self.scale = scheduled("scale", scale)
        self.guide_margin = None
        if guide_margin is not None:
            self.guide_margin = not_negative("guide_margin", guide_margin)

    @property
    def needs(self) -> dict[str, str]:  # type: ignore[override]
        """The teacher's embeddings, with `guide_margin`."""
        return {} if self.guide_margin is None else {"teacher": "embedding"}

    def call(
        self,
        source: Any,
        translation: Any,
        source_id: Any = None,
        teacher: Any = None,
        step: Any = None,
    ) -> Any:
        """Returns the loss of each pair, `(B,)`."""
        source = l2_normalize(ops.cast(source, "float32"))
        translation = l2_normalize(ops.cast(translation, "float32"))
        every_source, every_translation = all_rows(source), all_rows(translation)
        own = own_rows(source, every_source)  # (own batch, batch of all replicas)
        mask = MASKED * (1.0 - own) * self._not_negative(source_id, teacher)
        scale, both = value_at(self.scale, step), 0.0
        for query, keys in ((source, every_translation), (translation, every_source)):
            scores = scale * (cosine_matrix(query, keys) - self.margin * own) + mask
            both = both + ops.log_softmax(scores, axis=1)
        return -0.5 * ops.sum(both * own, axis=1)

    def _not_negative(self, source_id: Any, teacher: Any) -> Any:
        """Returns 1.0 where `j` is not a negative of `i`."""
        masked: Any = 0.0
        if source_id is not None:
            every_id = all_rows(source_id)
            same = ops.equal(ops.expand_dims(source_id, 1), ops.expand_dims(every_id, 0))
            masked = ops.cast(same, "float32")
        if self.guide_margin is not None:
            if teacher is None:
                raise InputError(
                    "`guide_margin` needs the teacher's embeddings. Received: teacher=None. "
                    "Add them to the batch, or set guide_margin=None."
                )
            guide = l2_normalize(ops.cast(teacher, "float32"))
            close = cosine_matrix(guide, all_rows(guide)) > 1.0 - self.guide_margin
            masked = ops.maximum(masked, ops.cast(close, "float32"))
        return masked

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "margin": self.margin,
            "scale": serialized(self.scale),
            "guide_margin": self.guide_margin,
        }
