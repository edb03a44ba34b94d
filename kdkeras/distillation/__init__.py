"""Distillation: the model whose `fit` trains a student, and what keeps a long training."""

from kdkeras.distillation.backup import Backup
from kdkeras.distillation.distiller import Distiller
from kdkeras.distillation.termination import StopOnTermination

__all__ = ["Backup", "Distiller", "StopOnTermination"]
