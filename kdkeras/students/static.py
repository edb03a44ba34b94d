"""The smallest and fastest student: a table of subword vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import keras
from keras import ops

from kdkeras.layers import EmbeddingTable, MeanPooling, QuantizableDense, UnitNorm
from kdkeras.layers.fake_quantization import quantized_rows
from kdkeras.students.student import Student

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary

__all__ = ["StaticStudent"]


@keras.saving.register_keras_serializable(package="kdkeras")
class StaticStudent(Student):
    """Averages weighted subword vectors and projects the mean.

    Takes a few microseconds per sentence on a phone. It ignores word order; use a
    `TransformerStudent` if word order matters, which can also start from a trained
    static student (`kdkeras.growth.grow`).

    Formula:

    ```
    mean = sum_i(exp(weight[token_i]) * table[token_i]) / number of tokens
    embedding = mean @ kernel + bias            (scaled to length 1)
    ```

    Args:
        vocabulary_size: Number of rows of the token table.
        output_dim: Width of the embedding. Use the teacher's.
        embedding_dim: Width of the table. Default 256.
        token_weights: Whether each token has a trainable weight. They help
            training. A trained student does not need them, because they can be
            multiplied into the table (`kdkeras.compression.factorize_table`).
            Default True.
        normalize: Whether embeddings are scaled to length 1. Use the teacher's
            setting. Default True.
        sequence_length: Maximum number of tokens per sentence. Default 128.
        vocabulary: The vocabulary, required to encode strings.

    Call arguments:
        inputs: `{"token_ids": (B, L) int32, "padding_mask": (B, L) int32}`,
            1 = real token. Padding does not change the result. The embedding of
            a row without tokens is the bias of the projection (scaled to length
            1).

    Returns:
        `(B, output_dim)` float32.

    References:
        Tulkens, van Dongen (2024), Model2Vec; Arora et al. (2017), SIF, for
        weighted means.
    """

    def __init__(
        self,
        vocabulary_size: int,
        output_dim: int,
        embedding_dim: int = 256,
        *,
        token_weights: bool = True,
        normalize: bool = True,
        sequence_length: int = 128,
        vocabulary: Vocabulary | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            vocabulary_size,
            output_dim,
            normalize=normalize,
            sequence_length=sequence_length,
            vocabulary=vocabulary,
            **kwargs,
        )
        self.embedding_dim = int(embedding_dim)
        self.token_weights = bool(token_weights)
        policy = self.dtype_policy
        self.token_embedding = EmbeddingTable(
            vocabulary_size,
            embedding_dim,
            keras.initializers.RandomNormal(stddev=0.05),
            dtype=policy,
            name="token_embedding",
        )
        self.token_weight = (
            EmbeddingTable(vocabulary_size, 1, "zeros", dtype=policy, name="token_weight")
            if token_weights
            else None
        )
        self.pooling = MeanPooling(dtype=policy, name="pooling")
        self.projection = QuantizableDense(output_dim, dtype=policy, name="projection")
        self.unit_norm = UnitNorm(name="unit_norm")
        self.build()

    def _build_layers(self) -> None:
        self.token_embedding.build((None, None))
        if self.token_weight is not None:
            self.token_weight.build((None, None))
        self.projection.build((None, self.embedding_dim))

    @property
    def pooled_dim(self) -> int:
        """Width of the table."""
        return self.embedding_dim

    def pooled(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Returns the weighted means of the table's vectors, `(B, embedding_dim)`."""
        token_ids = inputs["token_ids"]
        vectors = self.token_embedding(token_ids)
        weights = None if self.token_weight is None else ops.exp(self.token_weight(token_ids))
        if self.fake_quantization is not None:
            # Exported tables contain the weighted vectors.
            vectors = vectors if weights is None else vectors * weights
            vectors, weights = quantized_rows(vectors, self.fake_quantization), None
            vectors = ops.cast(vectors, self.compute_dtype)
        return self.pooling(vectors, inputs["padding_mask"], weights=weights)

    def _quantizable_layers(self) -> list[Any]:
        """Returns the projection; `pooled` rounds the product of the two tables."""
        return [self.projection]

    def features(
        self, inputs: dict[str, Any], names: Sequence[str], training: bool | None = None
    ) -> dict[str, Any]:
        """Returns the embeddings of the sentences."""
        return {"embedding": self.embed_pooled(self.pooled(inputs, training=training))}

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "embedding_dim": self.embedding_dim,
            "token_weights": self.token_weights,
        }
