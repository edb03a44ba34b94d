"""The terms of a Distiller's loss, each as its sum over the rows of a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kdkeras import replicas
from kdkeras.distillation.batches import Batch, Rows, StudentOutputs, named_output
from kdkeras.distillation.chunks import in_chunks
from kdkeras.distillation.features import asked_outputs, named_outputs, refuse_other_tokens
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
    "tell_losses",
    "term_trackers",
    "track",
    "weighted_total",
    "weights_at",
]

TASK, REGULARIZATION = "task", "regularization"
WEIGHT_LOG = "weight_"
"""Under this and a loss's name, a weight that changes is logged."""

Terms = dict[str, Any]
"""Sums over rows, float32 scalars, by name."""


def teacher_targets(
    batch: Batch,
    teacher: keras.Model | None,
    distillation: Mapping[str, DistillationLoss],
    alignment: Mapping[str, AlignmentLoss],
    chunk_size: int | None = None,
) -> dict[str, Any]:
    """Returns the cached targets, and the live teacher's for what is not cached.

    The teacher reads `chunk_size` rows at once, or all if it is None.

    Raises:
        InputError: If a loss needs what is neither cached nor taught, or reads
            tokens where the teacher has others.
    """
    wanted = {loss.target for loss in distillation.values()}
    for loss in (*distillation.values(), *alignment.values()):
        wanted.update(set(loss.needs.values()) - set(BATCH_PARTS))
    missing = wanted - set(batch.targets)
    if not missing:
        return batch.targets
    if teacher is None:
        raise InputError(
            f"A loss needs the teacher's target {sorted(missing)[0]!r}. Received: targets "
            f"{sorted(batch.targets)} and no live teacher. Cache the target in y, or pass teacher=."
        )
    inputs = batch.source if batch.teacher is None else batch.teacher
    if batch.teacher is not None:
        refuse_other_tokens(distillation, missing)
    asked = asked_outputs(teacher, missing)

    def taught(rows: Any) -> dict[str, Any]:
        outputs = named_outputs(teacher, rows, False, asked)
        return {name: named_output(outputs, name, "teacher") for name in sorted(missing)}

    found = keras.tree.map_structure(ops.stop_gradient, in_chunks(taught, inputs, chunk_size))
    return {**batch.targets, **found}


def loss_terms(
    rows: Rows,
    targets: Mapping[str, Any],
    outputs: StudentOutputs,
    distillation: Mapping[str, DistillationLoss],
    alignment: Mapping[str, AlignmentLoss],
    step: Any = None,
) -> Terms:
    """Returns every distillation and alignment term.

    The one place that weighs rows. Divided by the rows of *all* replicas, the
    sums of all replicas add up to the mean of one device. `step` is the number
    of updates that are done, for losses that change with it.

    Raises:
        InputError: If an alignment loss gets no translations, or a loss lacks
            a part of the batch.
    """
    terms: Terms = {}
    batch = rows.batch
    sides = [(outputs.source, batch.source), (outputs.translation, batch.translation)]
    for name, loss in distillation.items():
        values = [
            loss(
                targets[loss.target],
                named_output(output, loss.student_output),
                **_parts(name, loss, batch, inputs, targets, step),
            )
            for output, inputs in sides[: 1 if loss.source_only else 2]
            if output is not None
        ]
        terms[name] = rows.sum(_one_a_row(name, sum(values[1:], values[0])))
    for name, alignment_loss in alignment.items():
        if outputs.translation is None:
            raise InputError(
                f"The alignment loss {name!r} needs translations. Received: a batch without "
                "`translation_token_ids`. Give pairs, or leave the loss out."
            )
        source, translation = (named_output(side, "embedding") for side in outputs)
        parts = _parts(name, alignment_loss, batch, batch.source, targets, step)
        terms[name] = rows.sum(_one_a_row(name, alignment_loss(source, translation, **parts)))
    return terms


def _one_a_row(name: str, values: Any) -> Any:
    if len(values.shape) != 1:
        raise InputError(
            f"A loss gives one value a row, `(B,)`. Received: {tuple(values.shape)} from {name!r}. "
            "Average its other axes, and not the batch."
        )
    return values


def _parts(
    name: str, loss: ExampleLoss, batch: Batch, inputs: Any, targets: Mapping[str, Any], step: Any
) -> dict[str, Any]:
    """What a loss reads besides the two sides that it compares, by keyword."""
    found = {**targets, "label": batch.labels, "source_id": batch.source_id, "step": step}
    found.update(inputs if isinstance(inputs, dict) else {})
    for part in loss.needs.values():
        if found.get(part) is None:
            there = sorted(k for k, value in found.items() if value is not None and k != "step")
            raise InputError(
                f"The loss {name!r} needs {part!r}. Received: a batch with {there}. Give it in the "
                "batch, or leave the loss out."
            )
    wanted = {**loss.takes, **loss.needs}
    return {key: found[part] for key, part in wanted.items() if found.get(part) is not None}


def tell_losses(
    losses: Sequence[Mapping[str, ExampleLoss]], said: Sequence[dict[str, Any]], kept: Any
) -> None:
    """Lets losses with a memory take in what the teacher said of a step's rows.

    Args:
        losses: The losses that were computed, by name.
        said: The teacher's targets of each part of the batch.
        kept: Whether the step was finite, the same on all replicas.
    """
    for loss in [loss for by_name in losses for loss in by_name.values()]:
        for targets in said:
            loss.after_step(targets, kept)


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


def weighted_total(terms: Terms, weights: Mapping[str, Any]) -> Any:
    """Returns the sum of the terms, each times its weight."""
    weighted = [weights.get(name, 1.0) * value for name, value in terms.items()]
    return sum(weighted[1:], weighted[0])


# ---- weights --------------------------------------------------------------


def refuse_unfit_names(names: list[str]) -> None:
    """Refuses names of losses that another loss or log has.

    Raises:
        InputError: For a name used twice, or reserved.
    """
    twice = sorted({name for name in names if names.count(name) > 1})
    reserved = {"loss", TASK, REGULARIZATION}
    taken = sorted(name for name in names if name in reserved or name.startswith(WEIGHT_LOG))
    if twice or taken:
        raise InputError(
            f"Every loss needs a name of its own. Received: {(twice or taken)[0]!r} "
            f"{'twice' if twice else 'which is reserved'}. Choose another name."
        )


def given_weights(names: list[str], weights: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the weights that are given, each a float or a schedule.

    Args:
        names: Names that may have one.
        weights: Floats, schedules, or what a configuration has of these.

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
    """Returns the weight of every loss and of the task loss, 1.0 where none is given.

    Raises:
        InputError: As `refuse_unfit_names` and `given_weights`.
    """
    refuse_unfit_names(names)
    given = given_weights([*names, TASK], weights)
    return {name: given.get(name, 1.0) for name in [*names, TASK]}


def weights_at(weights: Mapping[str, Any], step: Any) -> dict[str, Any]:
    """Returns every weight at a step: a float, or a scalar where it changes."""
    return {name: value_at(weight, step) for name, weight in weights.items()}


# ---- running means ------------------------------------------------------


def term_trackers(names: Sequence[str]) -> dict[str, keras.metrics.Mean]:
    """Returns a running mean for every loss and its weight, and for the regularizers."""
    every = [*names, REGULARIZATION, *(f"{WEIGHT_LOG}{name}" for name in names)]
    return {name: keras.metrics.Mean(name=name) for name in every}


def track(trackers: Mapping[str, keras.metrics.Mean], sums: Terms, count: Any) -> None:
    """Adds sums over rows to the running means.

    Args:
        trackers: Running means by name.
        sums: Sums over this replica's rows, by name.
        count: Number of these rows; a replica without rows counts nothing.
    """
    for name, value in sums.items():
        trackers[name].update_state(ops.divide_no_nan(value, count), sample_weight=count)


def logs_of(trackers: Mapping[str, keras.metrics.Mean], names: Sequence[str]) -> dict[str, Any]:
    """Returns the running means over all replicas, the same on each replica."""
    own = tf.stack(
        [v.value for name in names for v in (trackers[name].total, trackers[name].count)]
    )
    sums = ops.reshape(replicas.total(own), (len(names), 2))
    means = ops.unstack(ops.divide_no_nan(sums[:, 0], sums[:, 1]))
    return dict(zip(names, means, strict=True))
