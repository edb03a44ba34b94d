"""Distillation: the model whose `fit` trains a student."""

from kdkeras.distillation.distiller import Distiller

__all__ = ["Distiller"]
