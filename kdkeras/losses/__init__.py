"""Losses: soft targets from a teacher, and alignment across languages."""

from kdkeras.losses.base import AlignmentLoss, DistillationLoss
from kdkeras.losses.correlation import CorrelationDistillation
from kdkeras.losses.embedding import EmbeddingDistillation
from kdkeras.losses.matryoshka import Matryoshka, MatryoshkaAlignment
from kdkeras.losses.principal_axes import principal_axes
from kdkeras.losses.queue import QueueContrast, QueueDistillation
from kdkeras.losses.redundancy import CrossCorrelation, VarianceCovariance
from kdkeras.losses.relations import RelationalAngle, RelationalDistance, SimilarityMatrix
from kdkeras.losses.similarity import SimilarityDistillation
from kdkeras.losses.soft_targets import SoftTargets
from kdkeras.losses.spread_out import SpreadOut
from kdkeras.losses.translation_ranking import TranslationRanking

__all__ = [
    "AlignmentLoss",
    "CorrelationDistillation",
    "CrossCorrelation",
    "DistillationLoss",
    "EmbeddingDistillation",
    "Matryoshka",
    "MatryoshkaAlignment",
    "QueueContrast",
    "QueueDistillation",
    "RelationalAngle",
    "RelationalDistance",
    "SimilarityDistillation",
    "SimilarityMatrix",
    "SoftTargets",
    "SpreadOut",
    "TranslationRanking",
    "VarianceCovariance",
    "principal_axes",
]
