"""Losses of `keras.distillation`, as losses of kdkeras."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import keras
from keras.distillation import FeatureDistillation, LogitsDistillation

from kdkeras.errors import InputError
from kdkeras.losses import AlignmentLoss, DistillationLoss, KerasLoss, SoftTargets

__all__ = ["alignment_only", "our_losses"]


def our_losses(losses: Mapping[str, Any]) -> dict[str, DistillationLoss]:
    """Returns the losses with every one of Keras in its place a loss of kdkeras.

    Raises:
        InputError: If the losses have no names, or one is unknown or reads
            what a Distiller does not hand it.
    """
    if not isinstance(losses, Mapping):
        raise InputError(
            f"Losses are given by name. Received: distillation_losses={type(losses).__name__}. "
            'Pass distillation_losses={"logits": ...}.'
        )
    ours = {}
    for name, loss in losses.items():
        ours[name] = _our_loss(name, loss)
    return ours


def alignment_only(losses: Mapping[str, Any]) -> dict[str, AlignmentLoss]:
    """Returns the alignment losses.

    Raises:
        InputError: If one is of another kind.
    """
    for name, loss in losses.items():
        if not isinstance(loss, AlignmentLoss):
            raise InputError(
                "An alignment loss compares the student's two sides. Received: "
                f"{type(loss).__name__} as {name!r}. Pass it as one of `distillation_losses`, or "
                "derive from kdkeras.losses.AlignmentLoss."
            )
    return dict(losses)


def _our_loss(name: str, loss: Any) -> DistillationLoss:
    if isinstance(loss, DistillationLoss):
        return loss
    # Not a subclass of theirs: its own compute_loss is one value a batch.
    if type(loss) not in (FeatureDistillation, LogitsDistillation):
        raise InputError(
            f"A distillation loss gives one value an example. Received: {type(loss).__name__} as "
            f"{name!r}. Derive from kdkeras.losses.DistillationLoss and implement "
            "loss(teacher, student), or pass kdkeras.losses.KerasLoss(...)."
        )
    if not callable(loss.loss):
        raise InputError(
            f"A loss reads one output. Received: {name!r} with losses for several, {loss.loss!r}. "
            f"Give each output a {type(loss).__name__} and a name of its own."
        )
    return _of_logits(loss) if type(loss) is LogitsDistillation else _of_features(name, loss)


def _of_logits(loss: LogitsDistillation) -> DistillationLoss:
    if loss.loss is keras.losses.kl_divergence:
        warnings.warn(
            "keras.distillation.LogitsDistillation with loss='kl_divergence' (its default) takes "
            "the divergence of raw logits, without softmax and temperature ** 2, and does not move "
            f"a student toward its teacher. SoftTargets(temperature={loss.temperature}) is in its "
            "place: pass that, or loss=keras.losses.KLDivergence().",
            UserWarning,
            stacklevel=5,  # To the line that makes the Distiller.
        )
    elif type(loss.loss) is not keras.losses.KLDivergence or loss.loss.reduction == "sum":
        return KerasLoss(loss.loss, temperature=loss.temperature, target="logits")
    return SoftTargets(temperature=loss.temperature)


def _of_features(name: str, loss: FeatureDistillation) -> DistillationLoss:
    if loss.teacher_layer_name or loss.student_layer_name:
        raise InputError(
            f"A Distiller reads outputs, not layers. Received: {name!r} with teacher_layer_name="
            f"{loss.teacher_layer_name!r}, student_layer_name={loss.student_layer_name!r}. Return "
            "the layer in a dict of outputs, and pass KerasLoss('mse', target=its name)."
        )
    return KerasLoss(loss.loss)
