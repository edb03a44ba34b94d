"""Students with attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import keras
import keras_hub

from kdkeras.errors import InputError
from kdkeras.layers import EmbeddingTable, MaskedMean, TransformerBlock, UnitNorm
from kdkeras.students.student import Student

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary

__all__ = ["TransformerStudent"]


@keras.saving.register_keras_serializable(package="kdkeras")
class TransformerStudent(Student):
    """Encodes a sentence with a small BERT and averages its tokens.

    Args:
        vocabulary_size: Rows of the token table.
        output_dim: Width of the embedding, the teacher's.
        num_layers: Number of blocks.
        hidden_dim: Width of the blocks.
        num_heads: Attention heads; must divide `hidden_dim`.
        intermediate_dim: Width of the feed-forward nets.
        dropout: Share of values dropped while training, in [0, 1).
        project: Whether a projection to `output_dim` follows the mean. Without
            it `hidden_dim` must equal `output_dim`.
        normalize: Whether embeddings have length 1. Take it from the teacher.
        sequence_length: Tokens read of a sentence, and rows of the position
            table.
        vocabulary: The vocabulary, needed for strings.

    Call arguments:
        inputs: `{"token_ids": (B, L) int32, "padding_mask": (B, L) int32}`,
            1 = real token; L at most `sequence_length`. Padding does not
            change the result. A row without a token gives one fixed vector.

    Returns:
        `(B, output_dim)` float32.

    Raises:
        InputError: For sizes that do not fit together.
    """

    def __init__(
        self,
        vocabulary_size: int,
        output_dim: int,
        num_layers: int = 4,
        hidden_dim: int = 256,
        num_heads: int = 4,
        intermediate_dim: int = 1024,
        dropout: float = 0.1,
        project: bool = True,
        *,
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
        if not project and hidden_dim != output_dim:
            raise InputError(
                "Without a projection `hidden_dim` must equal `output_dim`. "
                f"Received: hidden_dim={hidden_dim}, output_dim={output_dim}. Set project=True."
            )
        self.num_layers = int(num_layers)
        self.hidden_dim = int(hidden_dim)
        self.num_heads = int(num_heads)
        self.intermediate_dim = int(intermediate_dim)
        self.dropout = float(dropout)
        self.project = bool(project)
        policy = self.dtype_policy
        start = keras.initializers.TruncatedNormal(stddev=0.02)
        self.token_embedding = EmbeddingTable(
            vocabulary_size, hidden_dim, start, dtype=policy, name="token_embedding"
        )
        self.position_embedding = keras_hub.layers.PositionEmbedding(
            sequence_length, initializer=start, dtype=policy, name="position_embedding"
        )
        self.embedding_norm = keras.layers.LayerNormalization(
            epsilon=1e-12, dtype=policy, name="embedding_norm"
        )
        self.embedding_dropout = keras.layers.Dropout(dropout, dtype=policy)
        self.blocks = [
            TransformerBlock(
                hidden_dim, num_heads, intermediate_dim, dropout, dtype=policy, name=f"block_{i}"
            )
            for i in range(num_layers)
        ]
        self.pooling = MaskedMean(dtype=policy, name="pooling")
        self.projection = (
            keras.layers.Dense(output_dim, dtype=policy, name="projection") if project else None
        )
        self.unit_norm = UnitNorm(name="unit_norm")
        self.build()

    def _build_layers(self) -> None:
        hidden = (None, None, self.hidden_dim)
        self.token_embedding.build((None, None))
        self.position_embedding.build(hidden)
        self.embedding_norm.build(hidden)
        for block in self.blocks:
            block.build(hidden)
        if self.projection is not None:
            self.projection.build((None, self.hidden_dim))

    def hidden_states(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Returns the last block's output, `(B, L, hidden_dim)`."""
        hidden = self.token_embedding(inputs["token_ids"])
        hidden = self.embedding_norm(hidden + self.position_embedding(hidden))
        hidden = self.embedding_dropout(hidden, training=training)
        for block in self.blocks:
            hidden = block(hidden, inputs["padding_mask"], training=training)
        return hidden

    @property
    def pooled_dim(self) -> int:
        """Width of the blocks."""
        return self.hidden_dim

    def pooled(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Returns the means of the last block's output, `(B, hidden_dim)`."""
        return self.pooling(self.hidden_states(inputs, training=training), inputs["padding_mask"])

    def call(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Returns the sentences' embeddings."""
        embedding = self.pooled(inputs, training=training)
        if self.projection is not None:
            embedding = self.projection(embedding)
        embedding = keras.ops.cast(embedding, "float32")
        return self.unit_norm(embedding) if self.normalize else embedding

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "num_layers": self.num_layers,
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "project": self.project,
        }
