"""The whole training run: `train`, backups, stages and callbacks."""

from kdkeras.training.backup import Backup
from kdkeras.training.callbacks import (
    EvaluationCallback,
    QuantizationAwareTraining,
    StopOnTermination,
)
from kdkeras.training.run import TrainingResult, train
from kdkeras.training.stages import Stage, Stages

__all__ = [
    "Backup",
    "EvaluationCallback",
    "QuantizationAwareTraining",
    "Stage",
    "Stages",
    "StopOnTermination",
    "TrainingResult",
    "train",
]
