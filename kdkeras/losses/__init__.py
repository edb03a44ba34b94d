"""Losses: distillation from a teacher, and alignment of languages."""

from kdkeras.losses.barlow_twins import BarlowTwins
from kdkeras.losses.base import AlignmentLoss, DistillationLoss
from kdkeras.losses.correlation import CorrelationDistillation
from kdkeras.losses.decoupled import DecoupledDistillation
from kdkeras.losses.embedding import EmbeddingDistillation
from kdkeras.losses.hidden_states import HiddenStateDistillation
from kdkeras.losses.keras_loss import KerasLoss
from kdkeras.losses.logit_mse import LogitMSE, TokenLogitMSE
from kdkeras.losses.matryoshka import Matryoshka, MatryoshkaAlignment, principal_axes
from kdkeras.losses.minilm_v2 import MiniLMv2
from kdkeras.losses.per_layer import PerLayer
from kdkeras.losses.queue import QueueContrast, QueueDistillation
from kdkeras.losses.relations import RelationalAngle, RelationalDistance, SimilarityMatrix
from kdkeras.losses.similarity import SimilarityDistillation
from kdkeras.losses.soft_targets import SoftTargets, TokenSoftTargets
from kdkeras.losses.spread_out import SpreadOut
from kdkeras.losses.token_cross_entropy import TokenCrossEntropy
from kdkeras.losses.top_k import TokenTopKSoftTargets, TopKSoftTargets, top_k_targets
from kdkeras.losses.translation_ranking import TranslationRanking
from kdkeras.losses.vicreg import VICReg

__all__ = [
    "AlignmentLoss",
    "BarlowTwins",
    "CorrelationDistillation",
    "DecoupledDistillation",
    "DistillationLoss",
    "EmbeddingDistillation",
    "HiddenStateDistillation",
    "KerasLoss",
    "LogitMSE",
    "Matryoshka",
    "MatryoshkaAlignment",
    "MiniLMv2",
    "PerLayer",
    "QueueContrast",
    "QueueDistillation",
    "RelationalAngle",
    "RelationalDistance",
    "SimilarityDistillation",
    "SimilarityMatrix",
    "SoftTargets",
    "SpreadOut",
    "TokenCrossEntropy",
    "TokenLogitMSE",
    "TokenSoftTargets",
    "TokenTopKSoftTargets",
    "TopKSoftTargets",
    "TranslationRanking",
    "VICReg",
    "principal_axes",
    "top_k_targets",
]
