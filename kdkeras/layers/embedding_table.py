"""A table of token vectors that converts to an efficient lookup in LiteRT."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kdkeras.layers.fake_quantization import QuantizationScheme, quantized_rows

__all__ = ["EmbeddingTable", "lookup"]


def lookup(table: tf.Tensor, flat_ids: tf.Tensor) -> tf.Tensor:
    """Returns rows `(n, dim)` of a table for ids `(n,)`."""
    # In eager mode, each new `n` would trace the function again.
    return (tf.gather if tf.executing_eagerly() else _named_lookup)(table, flat_ids)


@tf.function(experimental_implements="embedding_matmul")
def _named_lookup(table: tf.Tensor, flat_ids: tf.Tensor) -> tf.Tensor:
    # The converter recognizes this named function and writes EMBEDDING_LOOKUP,
    # which has one int8 scale per row. A plain gather becomes GATHER with one
    # scale for the whole table.
    return tf.gather(table, flat_ids)


@keras.saving.register_keras_serializable(package="kdkeras")
class EmbeddingTable(keras.layers.Layer):
    """Looks up one vector per token.

    Computes the same values as `keras.layers.Embedding`, but is exported to
    LiteRT as `EMBEDDING_LOOKUP` and can simulate quantization.

    Args:
        vocabulary_size: Number of rows of the table.
        dim: Number of columns of the table.
        initializer: Initializer of the table. Default `"uniform"`.

    Call arguments:
        token_ids: `(B, L)` int32, each in `[0, vocabulary_size)`.
        training: Whether the layer is called in a training step. Only the
            requested rows are then read; the table is neither copied nor cast.

    Returns:
        `(B, L, dim)` in the layer's compute dtype.

    Attributes:
        fake_quantization: Quantization scheme by which rows are rounded as in
            an exported file, or None (the default) for no rounding.
    """

    fake_quantization: QuantizationScheme | None = None

    def __init__(
        self,
        vocabulary_size: int,
        dim: int,
        initializer: Any = "uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.vocabulary_size = int(vocabulary_size)
        self.dim = int(dim)
        self.initializer = keras.initializers.get(initializer)

    def build(self, input_shape: Any) -> None:
        """Creates the table."""
        self.table = self.add_weight(
            shape=(self.vocabulary_size, self.dim),
            initializer=self.initializer,
            autocast=False,  # Rows are cast after the lookup.
            name="table",
        )

    def assign(self, vectors: Any) -> None:
        """Sets the table to `vectors`, `(vocabulary_size, dim)` float."""
        self.table.assign(vectors)

    def call(self, token_ids: Any, training: bool | None = None) -> Any:
        """Returns the vectors of the tokens."""
        flat = ops.reshape(token_ids, (-1,))
        table = self.table.value
        # Exported models always read the float32 table.
        plain = not training and self.compute_dtype == "float32"
        vectors = lookup(tf.convert_to_tensor(table), flat) if plain else tf.gather(table, flat)
        if self.fake_quantization is not None:
            vectors = quantized_rows(vectors, self.fake_quantization)
        vectors = tf.cast(vectors, self.compute_dtype)
        shape = tuple(ops.shape(token_ids)) + (self.dim,)
        return ops.reshape(vectors, shape)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Returns the input's shape with `dim` added."""
        return (*input_shape, self.dim)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "vocabulary_size": self.vocabulary_size,
            "dim": self.dim,
            "initializer": keras.initializers.serialize(self.initializer),
        }
