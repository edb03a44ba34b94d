"""Pooling of token vectors into one sentence vector, and normalization."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

__all__ = ["MeanPooling", "UnitNorm", "l2_normalize"]

# Avoids division by zero: a row without tokens gives the zero vector.
_MIN_TOKENS = 1e-6


def l2_normalize(x: Any) -> Any:
    """Scales each vector along the last axis to length 1. Zero vectors stay zero.

    Args:
        x: `(..., dim)` float.

    Returns:
        Tensor of the same shape and dtype.
    """
    square = ops.sum(ops.square(x), axis=-1, keepdims=True)
    return x * ops.rsqrt(ops.maximum(square, 1e-12))


@keras.saving.register_keras_serializable(package="kdkeras")
class MeanPooling(keras.layers.Layer):
    """Averages the vectors of the real tokens, optionally weighted.

    Formula:

    ```
    mean = sum(mask * weights * vectors) / max(sum(mask), 1e-6)
    ```

    The sum is divided by the number of tokens, not by the sum of the weights, so
    that a sentence of tokens with low weights has a short vector.

    Call arguments:
        vectors: `(B, L, d)` float.
        padding_mask: `(B, L)` int or bool, 1 = real token.
        weights: `(B, L, 1)` float, optional. Default 1.

    Returns:
        `(B, d)`; zeros for a row without tokens.
    """

    def build(
        self, vectors_shape: Any, padding_mask_shape: Any = None, weights_shape: Any = None
    ) -> None:
        """Creates no weights. Names the shapes for `keras.Model.summary`."""

    def call(self, vectors: Any, padding_mask: Any, weights: Any = None) -> Any:
        """Returns the mean of the real tokens."""
        mask = ops.cast(ops.expand_dims(padding_mask, -1), vectors.dtype)
        share = mask if weights is None else mask * weights
        total = ops.sum(vectors * share, axis=1)
        return total / ops.maximum(ops.sum(mask, axis=1), _MIN_TOKENS)

    def compute_output_shape(
        self, vectors_shape: Any, padding_mask_shape: Any = None, weights_shape: Any = None
    ) -> tuple[int | None, int]:
        """Returns `(B, d)`."""
        return (vectors_shape[0], vectors_shape[2])


@keras.saving.register_keras_serializable(package="kdkeras")
class UnitNorm(keras.layers.Layer):
    """Scales each vector to length 1. Zero vectors stay zero.

    Call arguments:
        vectors: `(B, d)` float.

    Returns:
        `(B, d)` float32 in every dtype policy.
    """

    def __init__(self, **kwargs: Any) -> None:
        # In half precision, lengths would be off by about 0.1 %.
        kwargs["dtype"] = "float32"
        super().__init__(**kwargs)

    def call(self, vectors: Any) -> Any:
        """Returns the scaled vectors."""
        return l2_normalize(vectors)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the input's shape."""
        return input_shape
