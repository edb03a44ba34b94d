"""Distillation: the model whose `fit` trains a student, and what keeps a long training."""

from kdkeras.distillation.backup import Backup
from kdkeras.distillation.balancing import Balancing, RunningMagnitude, UncertaintyWeighting
from kdkeras.distillation.distiller import Distiller
from kdkeras.distillation.quantization import QuantizationInTheLoop
from kdkeras.distillation.stages import Stage, StagedTraining
from kdkeras.distillation.termination import StopOnTermination

__all__ = [
    "Backup",
    "Balancing",
    "Distiller",
    "QuantizationInTheLoop",
    "RunningMagnitude",
    "Stage",
    "StagedTraining",
    "StopOnTermination",
    "UncertaintyWeighting",
]
