"""Losses: soft targets from a teacher, and alignment across languages."""

from kdkeras.losses.attention import AttentionRelations
from kdkeras.losses.base import AlignmentLoss, DistillationLoss
from kdkeras.losses.correlation import CorrelationDistillation
from kdkeras.losses.embedding import EmbeddingDistillation
from kdkeras.losses.hidden_states import HiddenStateDistillation
from kdkeras.losses.per_layer import PerLayer
from kdkeras.losses.relations import RelationalAngle, RelationalDistance, SimilarityMatrix
from kdkeras.losses.similarity import SimilarityDistillation
from kdkeras.losses.soft_targets import SoftTargets
from kdkeras.losses.translation_ranking import TranslationRanking

__all__ = [
    "AlignmentLoss",
    "AttentionRelations",
    "CorrelationDistillation",
    "DistillationLoss",
    "EmbeddingDistillation",
    "HiddenStateDistillation",
    "PerLayer",
    "RelationalAngle",
    "RelationalDistance",
    "SimilarityDistillation",
    "SimilarityMatrix",
    "SoftTargets",
    "TranslationRanking",
]
