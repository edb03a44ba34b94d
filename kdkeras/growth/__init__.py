"""Growth: a larger model from a small one, whose weights are products around the small one's."""

from kdkeras.growth.aligned_tokens import AlignTokens
from kdkeras.growth.axis_map import AxisMap
from kdkeras.growth.certificate import Certificate
from kdkeras.growth.copies import (
    AdvancedKnowledge,
    FunctionPreserving,
    HyperCloning,
    Lemon,
    Net2Wider,
)
from kdkeras.growth.depth import (
    DepthOperator,
    IdentityBlocks,
    Interleaving,
    MaskedLayers,
    Stacking,
)
from kdkeras.growth.factorization import factorize, merge
from kdkeras.growth.flops import forward_flops
from kdkeras.growth.growing import grow
from kdkeras.growth.learning import learn_operators
from kdkeras.growth.ledger import FlopLedger
from kdkeras.growth.ligo import LearnedOperators
from kdkeras.growth.masks import MaskedGrowth
from kdkeras.growth.moments import grow_optimizer
from kdkeras.growth.plan import GrowthPlan
from kdkeras.growth.tokens import ComposeTokens
from kdkeras.growth.unmasking import MaskSchedule, unmask
from kdkeras.growth.width import Chain, WidthOperator, ZeroPadding

__all__ = [
    "AdvancedKnowledge",
    "AlignTokens",
    "AxisMap",
    "Certificate",
    "Chain",
    "ComposeTokens",
    "DepthOperator",
    "FlopLedger",
    "FunctionPreserving",
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
    "WidthOperator",
    "ZeroPadding",
    "factorize",
    "forward_flops",
    "grow",
    "grow_optimizer",
    "learn_operators",
    "merge",
    "unmask",
]
