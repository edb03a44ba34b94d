"""Layers that students are made of."""

from kdkeras.layers.dense import Dense
from kdkeras.layers.embedding_table import EmbeddingTable
from kdkeras.layers.factorized_embedding import FactorizedEmbedding
from kdkeras.layers.feature_model import FeatureModel
from kdkeras.layers.pooling import MaskedMean, UnitNorm
from kdkeras.layers.transformer_block import TransformerBlock

__all__ = [
    "Dense",
    "EmbeddingTable",
    "FactorizedEmbedding",
    "FeatureModel",
    "MaskedMean",
    "TransformerBlock",
    "UnitNorm",
]
