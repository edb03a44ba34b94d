"""The frozen Keras model inside a teacher."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError

__all__ = ["SentenceEncoder", "pool"]


def pool(hidden: Any, padding_mask: Any, mode: str) -> Any:
    """Reduces token vectors to one vector a sentence.

    Args:
        hidden: `(batch, length, dim)`, float.
        padding_mask: `(batch, length)`, 1 at real tokens.
        mode: `"mean"`, `"cls"` (the first token) or `"max"`.

    Returns:
        `(batch, dim)`. A row without real tokens gives zeros for `"mean"`.
    """
    if mode == "cls":
        return hidden[:, 0]
    mask = ops.expand_dims(ops.cast(padding_mask, hidden.dtype), -1)
    if mode == "max":
        return ops.max(ops.where(mask > 0, hidden, -1e9), axis=1)
    return ops.sum(hidden * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1e-9)


class SentenceEncoder(keras.Model):
    """A frozen BERT with pooling and what follows it.

    It never trains and never drops out, whatever `training` says, and no
    gradient flows through it: a teacher that changed would not be one.

    Args:
        backbone: A `keras_hub.models.BertBackbone` with its weights.
        pooling: `"mean"`, `"cls"` or `"max"`.
        steps: Layers applied to the pooled vector, in order.

    Call arguments:
        inputs: `{"token_ids", "padding_mask"}`, each `(batch, length)` int32.

    Returns:
        `(batch, embedding_dim)` float32.
    """

    def __init__(
        self,
        backbone: keras.Model,
        pooling: str,
        steps: list[keras.layers.Layer],
        **kwargs: Any,
    ) -> None:
        super().__init__(dtype="float32", **kwargs)
        self.backbone = backbone
        self.pooling = pooling
        self.steps = steps
        self.trainable = False
        # Built here, so that the model is whole before its first batch.
        self({"token_ids": ops.ones((1, 2), "int32"), "padding_mask": ops.ones((1, 2), "int32")})

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Encodes token ids; `training` is accepted and ignored."""
        del training
        return ops.stop_gradient(self.embed(self.hidden_states(inputs), inputs["padding_mask"]))

    def hidden_states(self, inputs: dict[str, Any]) -> Any:
        """The last layer's token vectors, `(batch, length, hidden_dim)`."""
        outputs = self.backbone(
            {**inputs, "segment_ids": ops.zeros_like(inputs["token_ids"])}, training=False
        )
        return outputs["sequence_output"]

    def embed(self, hidden: Any, padding_mask: Any) -> Any:
        """Pools token vectors and applies the steps."""
        vector = pool(hidden, padding_mask, self.pooling)
        for step in self.steps:
            vector = step(vector)
        return vector

    def get_config(self) -> dict[str, Any]:
        """Refuses: a teacher is read from its snapshot, never saved again.

        A BertBackbone's config knows neither the activation nor the epsilon,
        so that a reloaded copy would give other vectors without a word.
        """
        raise InputError(
            "A teacher's model cannot be saved. Received: a request for its config. "
            "Keep the snapshot and load it with kdkeras.teachers.load."
        )
