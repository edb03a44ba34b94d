"""The terms of a Distiller's loss, their weights, and their running means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kdkeras import replicas
from kdkeras.distillation.batches import Batch, StudentOutputs, select_output
from kdkeras.distillation.chunks import run_in_chunks
from kdkeras.distillation.features import refuse_teacher_tokens, requested_outputs, run_model
from kdkeras.errors import InputError
from kdkeras.losses import AlignmentLoss, DistillationLoss
from kdkeras.losses.base import BATCH_PARTS, ExampleLoss
from kdkeras.schedules import as_value, is_schedule, sampled, value_at

__all__ = [
    "REGULARIZATION",
    "TASK",
    "WEIGHT_LOG",
    "Terms",
    "all_weights",
    "given_weights",
    "logs_of",
    "loss_terms",
    "regularization_term",
    "task_term",
    "teacher_targets",
    "term_trackers",
    "track",
    "update_memories",
    "weighted_total",
    "weights_at",
]

TASK, REGULARIZATION = "task", "regularization"
WEIGHT_LOG = "weight_"
"""Prefix of a loss's name under which a changing weight is logged."""

Terms = dict[str, Any]
"""Sums over rows, float32 scalars, by name."""


# ---- values ---------------------------------------------------------------


def teacher_targets(
    batch: Batch,
    teacher: keras.Model | None,
    distillation: Mapping[str, DistillationLoss],
    alignment: Mapping[str, AlignmentLoss],
    chunk_size: int | None = None,
) -> dict[str, Any]:
    """Returns the cached targets, and those of the live teacher that are not cached.

    The teacher processes `chunk_size` rows at once, or all if it is None.

    Raises:
        InputError: If a target is neither cached nor computed by a teacher, or
            a loss compares tokens and the teacher has other tokens.
    """
    needed = {loss.target for loss in distillation.values()}
    for loss in (*distillation.values(), *alignment.values()):
        needed.update(set(loss.needs.values()) - set(BATCH_PARTS))
    missing = needed - set(batch.targets)
    if not missing:
        return dict(batch.targets)
    if teacher is None:
        raise InputError(
            f"A loss needs the teacher's target {sorted(missing)[0]!r}. Received: targets "
            f"{sorted(batch.targets)} and no live teacher. Cache the target in y, or pass teacher=."
        )
    inputs = batch.source if batch.teacher is None else batch.teacher
    if batch.teacher is not None:
        refuse_teacher_tokens(distillation, missing)
    requested = requested_outputs(teacher, missing)

    def run_teacher(inputs: Any) -> dict[str, Any]:
        outputs = run_model(teacher, inputs, False, requested)
        return {name: select_output(outputs, name, "teacher") for name in sorted(missing)}

    computed = run_in_chunks(run_teacher, inputs, chunk_size)
    return {**batch.targets, **keras.tree.map_structure(ops.stop_gradient, computed)}


def loss_terms(
    batch: Batch,
    targets: Mapping[str, Any],
    outputs: StudentOutputs,
    distillation: Mapping[str, DistillationLoss],
    alignment: Mapping[str, AlignmentLoss],
    step: Any = None,
) -> Terms:
    """Returns every distillation and alignment term, multiplied by the sample weights.

    Divided by the number of rows of *all* replicas, the sums of all replicas
    add up to the mean on one device. `step` is the number of finished updates,
    for losses that change with it.

    Raises:
        InputError: If an alignment loss gets no translations, or a part of the
            batch that a loss needs is missing.
    """
    terms: Terms = {}
    sides = [(outputs.source, batch.source), (outputs.translation, batch.translation)]
    for name, loss in distillation.items():
        values = [
            loss(
                targets[loss.target],
                select_output(output, loss.student_output),
                **_loss_inputs(name, loss, batch, inputs, targets, step),
            )
            for output, inputs in sides[: 1 if loss.source_only else 2]
            if output is not None
        ]
        terms[name] = batch.weighted_sum(_per_row(name, sum(values[1:], values[0])))
    for name, alignment_loss in alignment.items():
        if outputs.translation is None:
            raise InputError(
                f"The alignment loss {name!r} needs translations. Received: a batch without "
                "`translation_token_ids`. Use batches of pairs, or omit the loss."
            )
        source, translation = (select_output(side, "embedding") for side in outputs)
        inputs = _loss_inputs(name, alignment_loss, batch, batch.source, targets, step)
        terms[name] = batch.weighted_sum(
            _per_row(name, alignment_loss(source, translation, **inputs))
        )
    return terms


def _per_row(name: str, values: Any) -> Any:
    if len(values.shape) != 1:
        raise InputError(
            "A loss must return one value per row, `(B,)`. Received: "
            f"{tuple(values.shape)} from {name!r}. Average over the other axes, but not over the "
            "batch."
        )
    return values


def _loss_inputs(
    name: str, loss: ExampleLoss, batch: Batch, inputs: Any, targets: Mapping[str, Any], step: Any
) -> dict[str, Any]:
    """Keyword arguments of a loss, besides the two tensors that it compares."""
    available = {**targets, "label": batch.labels, "source_id": batch.source_id, "step": step}
    available.update(inputs if isinstance(inputs, dict) else {})
    for part in loss.needs.values():
        if available.get(part) is None:
            there = sorted(k for k, v in available.items() if v is not None and k != "step")
            raise InputError(
                f"The loss {name!r} needs {part!r}. Received: a batch with {there}. Add it to the "
                "batch, or omit the loss."
            )
    arguments = {**loss.takes, **loss.needs}
    return {k: available[part] for k, part in arguments.items() if available.get(part) is not None}


def update_memories(
    losses: Sequence[Mapping[str, ExampleLoss]], targets: Sequence[Mapping[str, Any]], finite: Any
) -> None:
    """Calls `after_step` of every loss, with which a queue adds the teacher's embeddings.

    Args:
        losses: The losses that were computed, by name.
        targets: The teacher's targets of each micro-batch.
        finite: Whether the step was finite, the same on all replicas.
    """
    for loss in [loss for by_name in losses for loss in by_name.values()]:
        for by_name in targets:
            loss.after_step(by_name, finite)


def task_term(batch: Batch, outputs: StudentOutputs, compiled_loss: Any) -> Terms:
    """Returns the task loss, if one is compiled and the batch has labels."""
    if compiled_loss is None or batch.labels is None:
        return {}
    prediction = select_output(outputs.source, "logits")
    mean = compiled_loss(batch.labels, prediction, batch.sample_weight)
    # Keras has divided by this replica's rows and by the number of replicas.
    return {TASK: mean * replicas.num_replicas() * batch.count}


def regularization_term(batch: Batch, penalties: list[Any]) -> Terms:
    """Returns the student's regularization losses, times the number of rows."""
    if not penalties:
        return {}
    penalty = sum(ops.cast(value, "float32") for value in penalties)
    return {REGULARIZATION: penalty * batch.count}


def weighted_total(terms: Terms, weights: Mapping[str, Any]) -> Any:
    """Returns the weighted sum of the terms."""
    weighted = [weights.get(name, 1.0) * value for name, value in terms.items()]
    return sum(weighted[1:], weighted[0])


# ---- weights --------------------------------------------------------------


def refuse_unfit_names(names: list[str]) -> None:
    """Raises if a loss has the name of another loss or log.

    Raises:
        InputError: For a name that is used twice, or reserved.
    """
    duplicates = sorted({name for name in names if names.count(name) > 1})
    reserved = {"loss", TASK, REGULARIZATION}
    taken = sorted(name for name in names if name in reserved or name.startswith(WEIGHT_LOG))
    if duplicates or taken:
        raise InputError(
            f"Every loss needs a unique name. Received: {(duplicates or taken)[0]!r} "
            f"{'twice' if duplicates else 'which is reserved'}. Choose another name."
        )


def given_weights(names: list[str], weights: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the given weights, each as a float or a schedule.

    Args:
        names: Names of all losses.
        weights: Floats, schedules, or serialized schedules by name.

    Raises:
        InputError: For an unknown name, or a weight that is or becomes
            negative.
    """
    found = {}
    for name, weight in weights.items():
        if name not in names:
            raise InputError(
                f"`loss_weights` must name a loss. Received: {name!r}. The losses are {names}."
            )
        found[name] = as_value(weight)
        points = sampled(found[name]) if is_schedule(found[name]) else [(None, found[name])]
        for step, value in points:
            if not 0 <= value < math.inf:
                when = "" if step is None else f" at step {step}"
                raise InputError(
                    f"A loss weight must be 0 or more, and finite. Received: {name}={value:g}"
                    f"{when}. Use 0 to only log a loss."
                )
    return found


def all_weights(names: list[str], weights: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the weight of every loss and of the task loss, 1.0 by default.

    Raises:
        InputError: As `refuse_unfit_names` and `given_weights`.
    """
    refuse_unfit_names(names)
    given = given_weights([*names, TASK], weights)
    return {name: given.get(name, 1.0) for name in [*names, TASK]}


def weights_at(weights: Mapping[str, Any], step: Any) -> dict[str, Any]:
    """Returns every weight at a step: a float, or a scalar tensor if it changes."""
    return {name: value_at(weight, step) for name, weight in weights.items()}


# ---- running means ------------------------------------------------------


def term_trackers(names: Sequence[str]) -> dict[str, keras.metrics.Mean]:
    """Returns a running mean for every loss, its weight, and the regularization losses."""
    every = [*names, REGULARIZATION, *(f"{WEIGHT_LOG}{name}" for name in names)]
    return {name: keras.metrics.Mean(name=name) for name in every}


def track(trackers: Mapping[str, keras.metrics.Mean], sums: Terms, count: Any) -> None:
    """Updates the running means.

    Args:
        trackers: Running means by name.
        sums: Sums over this replica's rows, by name.
        count: Number of these rows; a replica without rows has no effect.
    """
    for name, value in sums.items():
        trackers[name].update_state(ops.divide_no_nan(value, count), sample_weight=count)


def logs_of(trackers: Mapping[str, keras.metrics.Mean], names: Sequence[str]) -> dict[str, Any]:
    """Returns the running means over all replicas, the same on each replica."""
    local = tf.stack(
        [v.value for name in names for v in (trackers[name].total, trackers[name].count)]
    )
    sums = ops.reshape(replicas.total(local), (len(names), 2))
    means = ops.unstack(ops.divide_no_nan(sums[:, 0], sums[:, 1]))
    return dict(zip(names, means, strict=True))
