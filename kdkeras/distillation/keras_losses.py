"""Converts losses of `keras.distillation` to losses of kdkeras."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras
from keras.distillation import FeatureDistillation, LogitsDistillation

from kdkeras.errors import InputError
from kdkeras.losses import AlignmentLoss, DistillationLoss, KerasLoss, SoftTargets

__all__ = ["check_alignment_losses", "to_kdkeras_losses"]


def to_kdkeras_losses(losses: Mapping[str, Any]) -> dict[str, DistillationLoss]:
    """Returns the losses, with those of `keras.distillation` converted.

    Raises:
        InputError: If the losses have no names, or a loss is unknown or reads
            layers or several outputs.
    """
    if not isinstance(losses, Mapping):
        raise InputError(
            f"Losses must be passed in a dict by name. Received: "
            f"distillation_losses={type(losses).__name__}. "
            'Pass distillation_losses={"logits": ...}.'
        )
    converted = {}
    for name, loss in losses.items():
        converted[name] = _converted(name, loss)
    return converted


def check_alignment_losses(losses: Mapping[str, Any]) -> dict[str, AlignmentLoss]:
    """Returns the alignment losses.

    Raises:
        InputError: If one is not an `AlignmentLoss`.
    """
    for name, loss in losses.items():
        if not isinstance(loss, AlignmentLoss):
            raise InputError(
                "An alignment loss must be a kdkeras.losses.AlignmentLoss. Received: "
                f"{type(loss).__name__} as {name!r}. Pass it in `distillation_losses`, or "
                "subclass kdkeras.losses.AlignmentLoss."
            )
    return dict(losses)


def _converted(name: str, loss: Any) -> DistillationLoss:
    if isinstance(loss, DistillationLoss):
        return loss
    # No subclasses: their compute_loss returns one value per batch.
    if type(loss) not in (FeatureDistillation, LogitsDistillation):
        raise InputError(
            "A distillation loss must return one value per example. Received: "
            f"{type(loss).__name__} as {name!r}. Subclass kdkeras.losses.DistillationLoss and "
            "implement loss(teacher, student), or pass kdkeras.losses.KerasLoss(...)."
        )
    if not callable(loss.loss):
        raise InputError(
            f"A loss must read one output. Received: {name!r} with several losses, {loss.loss!r}. "
            f"Pass one {type(loss).__name__} per output, each with its own name."
        )
    return _of_logits(loss) if type(loss) is LogitsDistillation else _of_features(name, loss)


def _of_logits(loss: LogitsDistillation) -> DistillationLoss:
    if loss.loss is keras.losses.kl_divergence:
        warnings.warn(
            "keras.distillation.LogitsDistillation with loss='kl_divergence' (its default) "
            "computes the divergence of raw logits, without softmax and temperature ** 2, and does "
            "not move a student toward its teacher. It is replaced by "
            f"SoftTargets(temperature={loss.temperature}): pass that, or "
            "loss=keras.losses.KLDivergence().",
            UserWarning,
            stacklevel=5,  # The line that creates the Distiller.
        )
    elif type(loss.loss) is not keras.losses.KLDivergence or loss.loss.reduction == "sum":
        return KerasLoss(loss.loss, temperature=loss.temperature, target="logits")
    return SoftTargets(temperature=loss.temperature)


def _of_features(name: str, loss: FeatureDistillation) -> DistillationLoss:
    if loss.teacher_layer_name or loss.student_layer_name:
        raise InputError(
            f"A Distiller compares outputs, not layers. Received: {name!r} with teacher_layer_name="
            f"{loss.teacher_layer_name!r}, student_layer_name={loss.student_layer_name!r}. Return "
            "the layer in a dict of outputs, and pass KerasLoss('mse', target=its name)."
        )
    return KerasLoss(loss.loss)
