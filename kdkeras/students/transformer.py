"""The Transformer student."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras
import keras_hub
from keras import ops

from kdkeras.errors import InputError
from kdkeras.layers import (
    EmbeddingTable,
    FactorizedEmbedding,
    MeanPooling,
    TransformerBlock,
    UnitNorm,
)
from kdkeras.layers.factorized_dense import check_ranks, dense
from kdkeras.layers.transformer_block import KERNELS, kernel_shapes
from kdkeras.students.student import Student

if TYPE_CHECKING:
    from kdkeras.data.vocabulary import Vocabulary

__all__ = ["TransformerStudent"]


@keras.saving.register_keras_serializable(package="kdkeras")
class TransformerStudent(Student):
    """Encodes a sentence with a small BERT and averages the token vectors.

    More accurate than a `StaticStudent` where word order matters, but slower.

    Args:
        vocabulary_size: Number of rows of the token table.
        output_dim: Width of the embedding. Use the teacher's.
        num_layers: Number of blocks. Default 4.
        hidden_dim: Width of the blocks. Default 256.
        num_heads: Number of attention heads; must divide `hidden_dim`. Default 4.
        intermediate_dim: Width of the feed-forward networks. Default 1024.
        dropout: Dropout rate, in [0, 1). Default 0.1.
        project: Whether a projection to `output_dim` follows the pooling. Without
            it, `hidden_dim` must equal `output_dim`. Default True.
        token_weights: Whether each token has a trainable weight in the mean, as in
            a `StaticStudent` (initially 1). Students grown from a static student
            have token weights. Default False.
        table_rank: Number of columns of the stored token table, below
            `hidden_dim`; a matrix then widens the vectors. Default `hidden_dim`.
        kernel_ranks: Ranks of the kernels that are stored as products of two
            matrices, by name: `qkv`, `attention_output`, `intermediate`,
            `feedforward` (in each block) and `projection`; see
            `kdkeras.compression.factorize`. Default none.
        normalize: Whether embeddings are scaled to length 1. Use the teacher's
            setting. Default True.
        sequence_length: Maximum number of tokens per sentence, and number of rows
            of the position table. Default 128.
        vocabulary: The vocabulary, required to encode strings.

    Call arguments:
        inputs: `{"token_ids": (B, L) int32, "padding_mask": (B, L) int32}`,
            1 = real token; L at most `sequence_length`. Padding does not
            change the result. All rows without tokens have the same embedding.
        outputs: Names of requested outputs: `embedding`, `hidden_states`,
            `attention`, `layer_embeddings` (see `kdkeras.layers.FeatureModel`).
            Default the embedding only.

    Returns:
        `(B, output_dim)` float32, or a dict if `outputs` is given.

    Raises:
        InputError: If sizes do not fit together.
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
        table_rank: int | None = None,
        *,
        token_weights: bool = False,
        kernel_ranks: Mapping[str, int] | None = None,
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
        if table_rank is not None and not 1 <= table_rank < hidden_dim:
            raise InputError(
                f"`table_rank` must be from 1 to {hidden_dim - 1}, below hidden_dim. "
                f"Received: table_rank={table_rank}. Omit it for a table of full width."
            )
        ranks = {name: int(rank) for name, rank in (kernel_ranks or {}).items()}
        shapes = kernel_shapes(hidden_dim, intermediate_dim)
        projections = {"projection": (hidden_dim, output_dim)} if project else {}
        check_ranks(ranks, {**shapes, **projections}, "this student")
        self.kernel_ranks = ranks or None
        self.num_layers = int(num_layers)
        self.hidden_dim = int(hidden_dim)
        self.num_heads = int(num_heads)
        self.intermediate_dim = int(intermediate_dim)
        self.dropout = float(dropout)
        self.project = bool(project)
        self.token_weights = bool(token_weights)
        self.table_rank = None if table_rank is None else int(table_rank)
        policy = self.dtype_policy
        start = keras.initializers.TruncatedNormal(stddev=0.02)
        named = {"dtype": policy, "name": "token_embedding"}
        self.token_embedding = (
            EmbeddingTable(vocabulary_size, hidden_dim, start, **named)
            if table_rank is None
            else FactorizedEmbedding(vocabulary_size, hidden_dim, table_rank, start, **named)
        )
        self.token_weight = (
            EmbeddingTable(vocabulary_size, 1, "zeros", dtype=policy, name="token_weight")
            if token_weights
            else None
        )
        self.position_embedding = keras_hub.layers.PositionEmbedding(
            sequence_length, initializer=start, dtype=policy, name="position_embedding"
        )
        self.embedding_norm = self._make_norm()
        self.embedding_dropout = keras.layers.Dropout(dropout, dtype=policy)
        self.blocks = [self._make_block(i) for i in range(num_layers)]
        self.pooling = MeanPooling(dtype=policy, name="pooling")
        self.projection = (
            dense(output_dim, ranks.get("projection"), dtype=policy, name="projection")
            if project
            else None
        )
        self.unit_norm = UnitNorm(name="unit_norm")
        self.build()

    def _make_norm(self) -> keras.layers.LayerNormalization:
        return keras.layers.LayerNormalization(
            epsilon=1e-12, dtype=self.dtype_policy, name="embedding_norm"
        )

    def _make_block(self, number: int) -> TransformerBlock:
        return TransformerBlock(**self._block_arguments(number))

    def _block_arguments(self, number: int) -> dict[str, Any]:
        ranks = self.kernel_ranks or {}
        return {
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "intermediate_dim": self.intermediate_dim,
            "dropout": self.dropout,
            "kernel_ranks": {name: rank for name, rank in ranks.items() if name in KERNELS},
            "dtype": self.dtype_policy,
            "name": f"block_{number}",
        }

    def _build_layers(self) -> None:
        hidden = (None, None, self.hidden_dim)
        self.token_embedding.build((None, None))
        if self.token_weight is not None:
            self.token_weight.build((None, None))
        self.position_embedding.build(hidden)
        # keras_hub names this shape differently in `compute_output_shape`, with which
        # `summary` would fail.
        self.position_embedding._build_shapes_dict = None
        self.embedding_norm.build(hidden)
        for block in self.blocks:
            block.build(hidden)
        if self.projection is not None:
            self.projection.build((None, self.hidden_dim))

    def output_specs(self) -> dict[str, Any]:
        """Returns the available outputs by name."""
        dtype = self.compute_dtype
        token = keras.KerasTensor((None, None, self.hidden_dim), dtype)
        embedding = keras.KerasTensor((None, self.output_dim))
        return {
            "embedding": embedding,
            "hidden_states": [token] * (self.num_layers + 1),
            "attention": [dict.fromkeys(("query", "key", "value"), token)] * self.num_layers,
            "layer_embeddings": [embedding] * (self.num_layers + 1),
        }

    def hidden_states(self, inputs: dict[str, Any], training: bool | None = None) -> list[Any]:
        """Returns the input of the first block and the output of each, `(B, L, hidden_dim)`."""
        return self._run_blocks(inputs, training)[0]

    def _run_blocks(
        self, inputs: dict[str, Any], training: bool | None, attention: bool = False
    ) -> tuple[list[Any], list[dict[str, Any]]]:
        hidden = self.token_embedding(inputs["token_ids"])
        hidden = self.embedding_norm(hidden + self.position_embedding(hidden))
        states, parts = [self.embedding_dropout(hidden, training=training)], []
        for block in self.blocks:
            output = block(
                states[-1], inputs["padding_mask"], training=training, return_attention=attention
            )
            if attention:
                output, part = output
                parts.append(part)
            states.append(output)
        return states, parts

    @property
    def pooled_dim(self) -> int:
        """Width of the blocks."""
        return self.hidden_dim

    def pooled(self, inputs: dict[str, Any], training: bool | None = None) -> Any:
        """Returns the mean of the token vectors of the last block, `(B, hidden_dim)`."""
        return self._mean(self.hidden_states(inputs, training)[-1], inputs)

    def _mean(self, hidden: Any, inputs: dict[str, Any]) -> Any:
        mask = inputs["padding_mask"]
        if self.token_weight is None:
            return self.pooling(hidden, mask)
        weights = ops.exp(self.token_weight(inputs["token_ids"]))
        return self.pooling(hidden, mask, weights=weights)

    def features(
        self, inputs: dict[str, Any], names: Sequence[str], training: bool | None = None
    ) -> dict[str, Any]:
        """Returns the requested outputs, from one pass through the blocks."""
        states, attention = self._run_blocks(inputs, training, "attention" in names)
        every = states if "layer_embeddings" in names else states[-1:]
        embeddings = [self.embed_pooled(self._mean(hidden, inputs)) for hidden in every]
        found = {
            "embedding": embeddings[-1],
            "hidden_states": states,
            "attention": attention,
            "layer_embeddings": embeddings,
        }
        return {name: found[name] for name in names}

    def truncated(self, num_layers: int) -> TransformerStudent:
        """Creates a student of the first blocks.

        Its embeddings are useful if the embeddings of all layers were trained
        (`kdkeras.losses.PerLayer`).

        Args:
            num_layers: Number of blocks to keep.

        Returns:
            A new student with copies of the weights. Its embedding equals
            `layer_embeddings[num_layers]` of this student.

        Raises:
            InputError: If `num_layers` is out of range.
        """
        if not 1 <= num_layers <= self.num_layers:
            raise InputError(
                f"`num_layers` must be from 1 to {self.num_layers}, the student's blocks. "
                f"Received: num_layers={num_layers}. Use {self.num_layers} for a full copy."
            )
        shallow = self.clone(
            num_layers=int(num_layers), name=f"{self.name}_{num_layers}", copy_weights=False
        )
        pairs = [
            (self.token_embedding, shallow.token_embedding),
            (self.position_embedding, shallow.position_embedding),
            (self.embedding_norm, shallow.embedding_norm),
            *zip(self.blocks, shallow.blocks, strict=False),
        ]
        for name in ("token_weight", "projection"):
            if getattr(self, name) is not None:
                pairs.append((getattr(self, name), getattr(shallow, name)))
        for ours, theirs in pairs:
            theirs.set_weights(ours.get_weights())
        return shallow

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
            "token_weights": self.token_weights,
            "table_rank": self.table_rank,
            "kernel_ranks": self.kernel_ranks,
        }
