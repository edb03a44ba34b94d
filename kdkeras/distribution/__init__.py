"""Training on several devices and machines, and a check for TPUs."""

from kdkeras.distribution.batches import distribute_batches
from kdkeras.distribution.strategies import choose_strategy
from kdkeras.distribution.tpu_check import TpuFinding, check_tpu

__all__ = ["TpuFinding", "check_tpu", "choose_strategy", "distribute_batches"]
