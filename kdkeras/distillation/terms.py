"""The terms of a Distiller's loss, each as its sum over the rows of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
from keras import ops

from kdkeras import replicas
from kdkeras.distillation.batches import Batch, Rows, StudentOutputs, named_output
from kdkeras.distillation.weights import REGULARIZATION, TASK
from kdkeras.errors import InputError
from kdkeras.losses import DistillationLoss, TranslationRanking

__all__ = [
    "Terms",
    "loss_terms",
    "regularization_term",
    "task_term",
    "teacher_targets",
    "weighted_total",
]

Terms = dict[str, Any]
"""Sums over rows, float32 scalars, by name."""


def teacher_targets(
    batch: Batch,
    teacher: keras.Model | None,
    distillation: Mapping[str, DistillationLoss],
    alignment: Mapping[str, TranslationRanking],
) -> dict[str, Any]:
    """Returns the cached targets, and the live teacher's for what is not cached.

    Raises:
        InputError: If a loss needs what is neither cached nor taught.
    """
    wanted = {loss.target for loss in distillation.values()}
    if any(loss.guide_margin is not None for loss in alignment.values()):
        wanted.add("embedding")
    missing = wanted - set(batch.targets)
    if not missing:
        return batch.targets
    if teacher is None:
        raise InputError(
            f"A loss needs the teacher's target {sorted(missing)[0]!r}. Received: targets "
            f"{sorted(batch.targets)} and no live teacher. Cache the target in y, or pass teacher=."
        )
    inputs = batch.source if batch.teacher is None else batch.teacher
    outputs = keras.tree.map_structure(ops.stop_gradient, teacher(inputs, training=False))
    return {**batch.targets, **{name: named_output(outputs, name) for name in missing}}


def loss_terms(
    rows: Rows,
    targets: Mapping[str, Any],
    outputs: StudentOutputs,
    distillation: Mapping[str, DistillationLoss],
    alignment: Mapping[str, TranslationRanking],
) -> Terms:
    """Returns every distillation and alignment term.

    The one place that weighs rows. Divided by the rows of *all* replicas, the
    sums of all replicas add up to the mean of one device.

    Raises:
        InputError: If an alignment loss gets no translations.
    """
    terms: Terms = {}
    sides = [side for side in outputs if side is not None]
    for name, loss in distillation.items():
        values = [loss(targets[loss.target], named_output(s, loss.target)) for s in sides]
        terms[name] = rows.sum(sum(values[1:], values[0]))
    for name, ranking in alignment.items():
        if outputs.translation is None:
            raise InputError(
                f"The alignment loss {name!r} needs translations. Received: a batch without "
                "`translation_token_ids`. Give pairs, or leave the loss out."
            )
        source, translation = (named_output(side, "embedding") for side in outputs)
        guide = targets.get("embedding")
        values = ranking(source, translation, source_id=rows.batch.source_id, teacher=guide)
        terms[name] = rows.sum(values)
    return terms


def task_term(rows: Rows, outputs: StudentOutputs, compiled_loss: Any) -> Terms:
    """Returns the task loss, where there is one and the batch has labels."""
    if compiled_loss is None or rows.batch.labels is None:
        return {}
    prediction = named_output(outputs.source, "logits")
    mean = compiled_loss(rows.batch.labels, prediction, rows.weight)
    # Keras has divided by this replica's rows and by the number of replicas.
    return {TASK: mean * replicas.num_replicas() * rows.count}


def regularization_term(rows: Rows, penalties: list[Any]) -> Terms:
    """Returns what the student's regularisers add, once a row."""
    if not penalties:
        return {}
    penalty = sum(ops.cast(value, "float32") for value in penalties)
    return {REGULARIZATION: penalty * rows.count}


def weighted_total(terms: Terms, weights: Mapping[str, float]) -> Any:
    """Returns the sum of the terms, each times its weight."""
    weighted = [weights.get(name, 1.0) * value for name, value in terms.items()]
    return sum(weighted[1:], weighted[0])
