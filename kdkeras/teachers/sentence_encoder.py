"""The frozen Keras model of a teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.layers import FeatureModel

__all__ = ["SentenceEncoder", "pool"]


def pool(hidden: Any, padding_mask: Any, mode: str) -> Any:
    """Pools token vectors into one vector per sentence.

    Args:
        hidden: `(batch, length, dim)`, float.
        padding_mask: `(batch, length)`, 1 = real token.
        mode: `"mean"`, `"cls"` (the first token) or `"max"`.

    Returns:
        `(batch, dim)`. With `"mean"`, rows without real tokens are zero.
    """
    if mode == "cls":
        return hidden[:, 0]
    mask = ops.expand_dims(ops.cast(padding_mask, hidden.dtype), -1)
    if mode == "max":
        return ops.max(ops.where(mask > 0, hidden, -1e9), axis=1)
    return ops.sum(hidden * mask, axis=1) / ops.maximum(ops.sum(mask, axis=1), 1e-9)


class SentenceEncoder(FeatureModel):
    """A frozen BERT with pooling and optional layers after it.

    It has no trainable weights, ignores `training` (no dropout), and stops
    gradients.

    Args:
        backbone: A `keras_hub.models.BertBackbone` with trained weights.
        pooling: `"mean"`, `"cls"` or `"max"`.
        steps: Layers that are applied to the pooled vector, in order.

    Call arguments:
        inputs: `{"token_ids", "padding_mask"}`, each `(batch, length)` int32.
        outputs: Names of requested outputs: `embedding`, `hidden_states`,
            `attention` (see `kdkeras.layers.FeatureModel`). Default the
            embedding only.

    Returns:
        `(batch, embedding_dim)` float32, or a dict if `outputs` is given.
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
        self.vocabulary_size = int(backbone.vocabulary_size)
        # Calling the model once builds it and determines `embedding_dim`.
        ones = ops.ones((1, 2), "int32")
        vector = self({"token_ids": ones, "padding_mask": ones})
        self.embedding_dim = int(vector.shape[-1])

    def output_specs(self) -> dict[str, Any]:
        """Returns the available outputs by name."""
        layers = len(self.backbone.transformer_layers)
        token = keras.KerasTensor((None, None, self.backbone.hidden_dim))
        return {
            "embedding": keras.KerasTensor((None, self.embedding_dim)),
            "hidden_states": [token] * (layers + 1),
            "attention": [dict.fromkeys(("query", "key", "value"), token)] * layers,
        }

    def features(
        self, inputs: dict[str, Any], names: Sequence[str], training: bool | None = None
    ) -> dict[str, Any]:
        """Computes the requested outputs. `training` is ignored."""
        del training
        found: dict[str, Any] = {}
        if set(names) <= {"embedding"}:
            hidden = self._last(inputs)
        else:
            states = self.hidden_states(inputs)
            hidden, found["hidden_states"] = states[-1], states
        if "attention" in names:
            layers = self.backbone.transformer_layers
            found["attention"] = [
                _projections(layer, state) for layer, state in zip(layers, states, strict=False)
            ]
        if "embedding" in names:
            found["embedding"] = self.embed(hidden, inputs["padding_mask"])
        return keras.tree.map_structure(ops.stop_gradient, {name: found[name] for name in names})

    def hidden_states(self, inputs: dict[str, Any]) -> list[Any]:
        """Returns the input of the first layer and the output of each, `(batch, length, dim)`."""
        backbone = self.backbone
        tokens = backbone.token_embedding(inputs["token_ids"])
        segments = backbone.segment_embedding(ops.zeros_like(inputs["token_ids"]))
        hidden = backbone.embeddings_add((tokens, backbone.position_embedding(tokens), segments))
        states = [backbone.embeddings_layer_norm(hidden)]
        for layer in backbone.transformer_layers:
            states.append(layer(states[-1], padding_mask=inputs["padding_mask"], training=False))
        return states

    def _last(self, inputs: dict[str, Any]) -> Any:
        outputs = self.backbone(
            {**inputs, "segment_ids": ops.zeros_like(inputs["token_ids"])}, training=False
        )
        return outputs["sequence_output"]

    def embed(self, hidden: Any, padding_mask: Any) -> Any:
        """Returns the embeddings: pools token vectors and applies the steps."""
        vector = pool(hidden, padding_mask, self.pooling)
        for step in self.steps:
            vector = step(vector)
        return vector

    def get_config(self) -> dict[str, Any]:
        """Not supported, because teachers are always loaded from their snapshot.

        The configuration of a `BertBackbone` contains neither the activation nor
        the epsilon, so a reloaded copy would compute other embeddings.
        """
        raise InputError(
            "A teacher's model cannot be saved. Received: a request for its config. "
            "Keep the snapshot and load it with kdkeras.teachers.load."
        )


def _projections(layer: Any, hidden: Any) -> dict[str, Any]:
    """Query, key and value of a `TransformerEncoder` layer, with the heads concatenated."""
    attention = layer._self_attention_layer
    batch, length, width = ops.shape(hidden)[0], ops.shape(hidden)[1], hidden.shape[-1]
    parts = {
        "query": attention.query_dense,
        "key": attention.key_dense,
        "value": attention.value_dense,
    }
    # (batch, length, heads, key_dim) to (batch, length, hidden_dim)
    return {
        name: ops.reshape(dense(hidden), (batch, length, width)) for name, dense in parts.items()
    }
