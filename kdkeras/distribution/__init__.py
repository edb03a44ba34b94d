"""Training on several devices and machines."""

from kdkeras.distribution.batches import distribute_batches
from kdkeras.distribution.strategies import choose_strategy

__all__ = ["choose_strategy", "distribute_batches"]
