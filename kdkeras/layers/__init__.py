"""Keras layers of students."""

from kdkeras.layers.embedding_table import EmbeddingTable
from kdkeras.layers.factorized_dense import FactorizedDense
from kdkeras.layers.factorized_embedding import FactorizedEmbedding
from kdkeras.layers.feature_model import FeatureModel
from kdkeras.layers.pooling import MeanPooling, UnitNorm
from kdkeras.layers.quantizable_dense import QuantizableDense
from kdkeras.layers.transformer_block import TransformerBlock

__all__ = [
    "QuantizableDense",
    "EmbeddingTable",
    "FactorizedDense",
    "FactorizedEmbedding",
    "FeatureModel",
    "MeanPooling",
    "TransformerBlock",
    "UnitNorm",
]
