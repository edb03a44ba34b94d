"""One training step: the model that trains a student, and how its loss terms are weighed."""

from kdkeras.distillation.balancing import LossBalancing, RunningMagnitude, UncertaintyWeighting
from kdkeras.distillation.distiller import Distiller

__all__ = ["Distiller", "LossBalancing", "RunningMagnitude", "UncertaintyWeighting"]
