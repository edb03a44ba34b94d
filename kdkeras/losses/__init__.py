"""Losses: soft targets from a teacher, and alignment across languages."""

from kdkeras.losses.attention import AttentionRelations
from kdkeras.losses.base import AlignmentLoss, DistillationLoss
from kdkeras.losses.correlation import CorrelationDistillation
from kdkeras.losses.decoupled import DecoupledDistillation
from kdkeras.losses.embedding import EmbeddingDistillation
from kdkeras.losses.hidden_states import HiddenStateDistillation
from kdkeras.losses.keras_loss import KerasLoss
from kdkeras.losses.logit_mse import LogitMSE, TokenLogitMSE
from kdkeras.losses.per_layer import PerLayer
from kdkeras.losses.relations import RelationalAngle, RelationalDistance, SimilarityMatrix
from kdkeras.losses.similarity import SimilarityDistillation
from kdkeras.losses.soft_targets import SoftTargets, TokenSoftTargets
from kdkeras.losses.token_cross_entropy import TokenCrossEntropy
from kdkeras.losses.top_k import TokenTopKSoftTargets, TopKSoftTargets, top_k_targets
from kdkeras.losses.translation_ranking import TranslationRanking

__all__ = [
    "AlignmentLoss",
    "AttentionRelations",
    "CorrelationDistillation",
    "DecoupledDistillation",
    "DistillationLoss",
    "EmbeddingDistillation",
    "HiddenStateDistillation",
    "KerasLoss",
    "LogitMSE",
    "PerLayer",
    "RelationalAngle",
    "RelationalDistance",
    "SimilarityDistillation",
    "SimilarityMatrix",
    "SoftTargets",
    "TokenCrossEntropy",
    "TokenLogitMSE",
    "TokenSoftTargets",
    "TokenTopKSoftTargets",
    "TopKSoftTargets",
    "TranslationRanking",
    "top_k_targets",
]
