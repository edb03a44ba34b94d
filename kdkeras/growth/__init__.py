"""Growth: making a larger model from a trained one, as products around its weights."""

from kdkeras.growth.depth import IdentityBlocks, Interleaving, MaskedLayers, Stacking
from kdkeras.growth.growing import grow
from kdkeras.growth.ledger import FlopLedger
from kdkeras.growth.ligo_factors import LearnedOperators
from kdkeras.growth.ligo_training import learn_operators
from kdkeras.growth.masks import MaskedGrowth, MaskSchedule, unmask
from kdkeras.growth.moments import grow_optimizer
from kdkeras.growth.plan import GrowthPlan
from kdkeras.growth.tokens import AlignTokens, ComposeTokens
from kdkeras.growth.width import (
    AdvancedKnowledge,
    Chain,
    HyperCloning,
    Lemon,
    Net2Wider,
    ZeroPadding,
)

__all__ = [
    "AdvancedKnowledge",
    "AlignTokens",
    "Chain",
    "ComposeTokens",
    "FlopLedger",
    "GrowthPlan",
    "HyperCloning",
    "IdentityBlocks",
    "Interleaving",
    "LearnedOperators",
    "Lemon",
    "MaskSchedule",
    "MaskedGrowth",
    "MaskedLayers",
    "Net2Wider",
    "Stacking",
    "ZeroPadding",
    "grow",
    "grow_optimizer",
    "learn_operators",
    "unmask",
]
