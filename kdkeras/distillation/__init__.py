"""One training step: the model that trains a student, and the balancing of its loss terms."""

from kdkeras.distillation.balancing import LossBalancing, RunningMagnitude, UncertaintyWeighting
from kdkeras.distillation.distiller import Distiller

__all__ = ["Distiller", "LossBalancing", "RunningMagnitude", "UncertaintyWeighting"]
