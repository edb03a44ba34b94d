"""A BERT block made for small devices."""

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
"""Attribute of each dense layer of a block, by the layer's name."""


def kernel_shapes(hidden_dim: int, intermediate_dim: int) -> dict[str, tuple[int, int]]:
    """Returns `(in, units)` of a block's kernels."""
    return {
        "qkv": (hidden_dim, 3 * hidden_dim),
        "attention_output": (hidden_dim, hidden_dim),
        "intermediate": (hidden_dim, intermediate_dim),
        "feedforward": (intermediate_dim, hidden_dim),
    }


# Subtracted from masked scores. exp(-120) is zero in float32, and unlike -1e9
# the number stays finite in float16 on a phone's GPU, where inf * 0 is NaN.
_MASKED = -120.0


@keras.saving.register_keras_serializable(package="kdkeras")
class TransformerBlock(keras.layers.Layer):
    """Computes self-attention and a feed-forward net, each with a residual.

    Post-normalised as in BERT, so that a teacher's layers can be copied into
    it weight by weight. Query, key and value are one matrix product.
    `keras_hub.layers.TransformerEncoder` computes the same; its mask is not
    finite in float16 and its attention is slower in LiteRT.

    Args:
        hidden_dim: Width `d`.
        num_heads: Number of attention heads; must divide `hidden_dim`.
        intermediate_dim: Width of the feed-forward net.
        dropout: Share of values dropped after each half while training, in
            [0, 1).
        layer_norm_epsilon: Added to the variance.
        kernel_ranks: Ranks of kernels that are stored as products, by name:
            `qkv`, `attention_output`, `intermediate`, `feedforward`. None (the
            default) for whole kernels.

    Call arguments:
        hidden: `(B, L, d)` float.
        padding_mask: `(B, L)` int or bool, 1 = real token.
        training: Whether dropout is on.
        return_attention: Whether query, key and value are returned, too.

    Returns:
        `(B, L, d)`; with `return_attention` this and a dict of `query`, `key`
        and `value`, each `(B, L, d)` with the heads side by side.

    Raises:
        InputError: If `num_heads` does not divide `hidden_dim`, or a rank is
            out of its range.

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

    def build(self, input_shape: tuple[int | None, ...]) -> None:
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
        """Returns what each dense layer reads, `(B, L, in)`, by its name in `KERNELS`."""
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
        scores = scores + _MASKED * ops.expand_dims(ops.expand_dims(padding, 1), 1)
        attended = ops.matmul(ops.softmax(scores, axis=-1), value)
        attended = ops.transpose(attended, (0, 2, 1, 3))
        return ops.reshape(attended, (batch, length, self.hidden_dim)), qkv

    def _projected(self, qkv: Any) -> Any:
        """Queries, keys and values; for a subclass to change."""
        return qkv

    def _score_scale(self, size: int, dtype: Any) -> Any:
        """What scores are multiplied by, for heads of a size."""
        return size**-0.5

    def _activated(self, units: Any) -> Any:
        """Units of the feed-forward net; for a subclass to change."""
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
