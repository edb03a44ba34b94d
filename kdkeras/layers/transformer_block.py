"""A BERT encoder block for small devices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.layers.factorized_dense import check_ranks, dense

__all__ = ["KERNELS", "TransformerBlock", "kernel_shapes"]

KERNELS = {
    "qkv": "qkv_dense",
    "attention_output": "output_dense",
    "intermediate": "intermediate_dense",
    "feedforward": "feedforward_dense",
}
"""Attribute name of each dense layer of a block, by the layer's name."""


def kernel_shapes(hidden_dim: int, intermediate_dim: int) -> dict[str, tuple[int, int]]:
    """Returns the shape `(in, units)` of each kernel of a block."""
    return {
        "qkv": (hidden_dim, 3 * hidden_dim),
        "attention_output": (hidden_dim, hidden_dim),
        "intermediate": (hidden_dim, intermediate_dim),
        "feedforward": (intermediate_dim, hidden_dim),
    }


# Added to the scores of padding. exp(-120) is 0 in float32. Unlike -1e9 the number
# is finite in float16, which GPUs of phones use; there, -inf * 0 would be NaN.
_PADDING_SCORE = -120.0


@keras.saving.register_keras_serializable(package="kdkeras")
class TransformerBlock(keras.layers.Layer):
    """Computes self-attention and a feed-forward network, each with a residual.

    Normalization follows each residual as in BERT, so that the weights of a BERT
    teacher's layers can be copied. Query, key and value are computed by one
    matrix product. `keras_hub.layers.TransformerEncoder` computes the same, but
    its mask is not finite in float16 and its attention is slower in LiteRT.

    Args:
        hidden_dim: Width `d`.
        num_heads: Number of attention heads; must divide `hidden_dim`.
        intermediate_dim: Width of the feed-forward network.
        dropout: Dropout rate after attention and after the feed-forward network,
            in [0, 1). Default 0.1.
        layer_norm_epsilon: Added to the variance. Default 1e-12.
        kernel_ranks: Ranks of the kernels that are stored as products of two
            matrices, by name: `qkv`, `attention_output`, `intermediate`,
            `feedforward`. Default none.

    Call arguments:
        hidden: `(B, L, d)` float.
        padding_mask: `(B, L)` int or bool, 1 = real token.
        training: Whether dropout is applied.
        return_attention: Whether to return query, key and value as well.

    Returns:
        `(B, L, d)`; with `return_attention`, this and a dict of `query`, `key`
        and `value`, each `(B, L, d)` with the heads concatenated.

    Raises:
        InputError: If `num_heads` does not divide `hidden_dim`, or a rank is
            out of range.

    References:
        Vaswani et al. (2017), arXiv:1706.03762; Devlin et al. (2019),
        arXiv:1810.04805.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        dropout: float = 0.1,
        layer_norm_epsilon: float = 1e-12,
        kernel_ranks: Mapping[str, int] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if hidden_dim % num_heads:
            raise InputError(
                "`num_heads` must divide `hidden_dim`. "
                f"Received: num_heads={num_heads}, hidden_dim={hidden_dim}. "
                f"Use a divisor of {hidden_dim}."
            )
        self.hidden_dim = int(hidden_dim)
        self.num_heads = int(num_heads)
        self.intermediate_dim = int(intermediate_dim)
        self.dropout = float(dropout)
        self.layer_norm_epsilon = float(layer_norm_epsilon)
        ranks = {name: int(rank) for name, rank in (kernel_ranks or {}).items()}
        check_ranks(ranks, kernel_shapes(hidden_dim, intermediate_dim), "a block")
        self.kernel_ranks = ranks or None
        start: dict[str, Any] = {
            "kernel_initializer": keras.initializers.TruncatedNormal(stddev=0.02),
            "dtype": self.dtype_policy,
        }
        norm: dict[str, Any] = {"epsilon": layer_norm_epsilon, "dtype": self.dtype_policy}
        self.qkv_dense = dense(3 * hidden_dim, ranks.get("qkv"), name="qkv", **start)
        self.output_dense = dense(
            hidden_dim, ranks.get("attention_output"), name="attention_output", **start
        )
        self.attention_norm = keras.layers.LayerNormalization(name="attention_norm", **norm)
        self.intermediate_dense = dense(
            *(intermediate_dim, ranks.get("intermediate")),
            activation="gelu",
            name="intermediate",
            **start,
        )
        self.feedforward_dense = dense(
            hidden_dim, ranks.get("feedforward"), name="feedforward", **start
        )
        self.output_norm = keras.layers.LayerNormalization(name="output_norm", **norm)
        self.attention_dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)
        self.feedforward_dropout = keras.layers.Dropout(dropout, dtype=self.dtype_policy)

    def build(self, hidden_shape: tuple[int | None, ...]) -> None:
        """Creates the weights."""
        hidden = (None, None, self.hidden_dim)
        for layer in (self.qkv_dense, self.output_dense, self.intermediate_dense):
            layer.build(hidden)
        self.feedforward_dense.build((None, None, self.intermediate_dim))
        self.attention_norm.build(hidden)
        self.output_norm.build(hidden)

    def call(
        self,
        hidden: Any,
        padding_mask: Any,
        training: bool | None = None,
        return_attention: bool = False,
    ) -> Any:
        """Returns the block's output."""
        attended, qkv = self._attend(hidden, padding_mask)
        attention = self.output_dense(attended)
        attention = self.attention_dropout(attention, training=training)
        hidden = self.attention_norm(hidden + attention)
        feedforward = self.feedforward_dense(self._activated(self.intermediate_dense(hidden)))
        feedforward = self.feedforward_dropout(feedforward, training=training)
        hidden = self.output_norm(hidden + feedforward)
        if not return_attention:
            return hidden
        parts = ops.split(qkv, 3, axis=-1)
        return hidden, dict(zip(("query", "key", "value"), parts, strict=True))

    def dense_inputs(self, hidden: Any, padding_mask: Any) -> dict[str, Any]:
        """Returns the inputs of each dense layer, `(B, L, in)`, by its name in `KERNELS`."""
        attended, _ = self._attend(hidden, padding_mask)
        middle = self.attention_norm(hidden + self.output_dense(attended))
        return {
            "qkv": hidden,
            "attention_output": attended,
            "intermediate": middle,
            "feedforward": self._activated(self.intermediate_dense(middle)),
        }

    def _attend(self, hidden: Any, padding_mask: Any) -> tuple[Any, Any]:
        batch, length = ops.shape(hidden)[0], ops.shape(hidden)[1]
        key_dim = self.hidden_dim // self.num_heads
        qkv = self._projected(self.qkv_dense(hidden))
        heads = ops.reshape(qkv, (batch, length, 3 * self.num_heads, key_dim))
        heads = ops.transpose(heads, (0, 2, 1, 3))  # (batch, 3 * heads, length, key_dim)
        query, key, value = ops.split(heads, 3, axis=1)
        query = query * self._score_scale(key_dim, query.dtype)
        scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2)))
        # (batch, heads, query, key)
        padding = 1.0 - ops.cast(padding_mask, scores.dtype)
        scores = scores + _PADDING_SCORE * ops.expand_dims(ops.expand_dims(padding, 1), 1)
        attended = ops.matmul(ops.softmax(scores, axis=-1), value)
        attended = ops.transpose(attended, (0, 2, 1, 3))
        return ops.reshape(attended, (batch, length, self.hidden_dim)), qkv

    def _projected(self, qkv: Any) -> Any:
        """Hook for subclasses: changes queries, keys and values."""
        return qkv

    def _score_scale(self, size: int, dtype: Any) -> Any:
        """Returns the factor of the scores for heads of a size."""
        return size**-0.5

    def _activated(self, units: Any) -> Any:
        """Hook for subclasses: changes the units of the feed-forward network."""
        return units

    def compute_output_shape(self, hidden_shape: Any, padding_mask_shape: Any = None) -> Any:
        """Returns the shape of `hidden`."""
        return hidden_shape

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "layer_norm_epsilon": self.layer_norm_epsilon,
            "kernel_ranks": self.kernel_ranks,
        }
