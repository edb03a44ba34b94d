"""What a batch is made of, and one forward pass for all of it."""

from __future__ import annotations

from typing import Any, NamedTuple

import keras
from keras import ops

from kdkeras.errors import InputError

__all__ = ["Batch", "StudentOutputs", "forward", "named_output", "unpack"]

SOURCE, TRANSLATION, TEACHER = "source_", "translation_", "teacher_"


class Batch(NamedTuple):
    """One batch, by what its parts are for."""

    source: Any
    """Inputs of the student for the source side."""
    translation: Any
    """Inputs for the translation side, or None."""
    teacher: Any
    """Inputs of a live teacher, or None where it reads the source's."""
    source_id: Any
    """`(B,)` int, equal for equal source sentences, or None."""
    targets: dict[str, Any]
    """Cached teacher targets by name."""
    labels: Any
    """Ground truth for the task loss, or None."""


class StudentOutputs(NamedTuple):
    """The student's outputs for both sides."""

    source: Any
    translation: Any


def _side(x: Any, prefix: str) -> dict[str, Any] | None:
    names = [name for name in x if name.startswith(prefix) and name != "source_id"]
    return {name.removeprefix(prefix): x[name] for name in names} or None


def unpack(x: Any, y: Any) -> Batch:
    """Sorts a batch's tensors.

    Args:
        x: A dict with `source_token_ids`, `source_padding_mask` and, for two
            languages, the same with `translation_`; optionally `source_id` and
            a live teacher's own inputs with `teacher_`. Anything else is taken
            as the student's input as it is.
        y: A dict of teacher targets (`embedding`, `logits`) and, optionally,
            `label`. Anything else is taken as the label.

    Returns:
        The parts.
    """
    if isinstance(y, dict):
        targets = {name: value for name, value in y.items() if name != "label"}
        labels = y.get("label")
    else:
        targets, labels = {}, y
    if not (isinstance(x, dict) and any(name.startswith(SOURCE) for name in x)):
        return Batch(x, None, None, None, targets, labels)
    return Batch(
        _side(x, SOURCE),
        _side(x, TRANSLATION),
        _side(x, TEACHER),
        x.get("source_id"),
        targets,
        labels,
    )


def forward(student: Any, batch: Batch, training: bool) -> StudentOutputs:
    """Runs the student once over both sides, joined to one batch of 2B rows."""
    if batch.translation is None:
        return StudentOutputs(student(batch.source, training=training), None)
    joined = {
        name: ops.concatenate([batch.source[name], batch.translation[name]], axis=0)
        for name in batch.source
    }
    outputs = student(joined, training=training)
    halves = keras.tree.map_structure(lambda output: ops.split(output, 2, axis=0), outputs)
    source = keras.tree.map_structure_up_to(outputs, lambda half: half[0], halves)
    translation = keras.tree.map_structure_up_to(outputs, lambda half: half[1], halves)
    return StudentOutputs(source, translation)


def named_output(outputs: Any, name: str) -> Any:
    """Returns the output that a loss reads.

    Args:
        outputs: A tensor, or a dict of tensors by name.
        name: `"embedding"`, `"logits"`, …

    Raises:
        InputError: If a dict lacks it.
    """
    if not isinstance(outputs, dict):
        return outputs
    if name not in outputs:
        raise InputError(
            f"The student must return what the losses read. Received: outputs "
            f"{sorted(outputs)}, a loss on {name!r}. Add the output, or set the loss's `target`."
        )
    return outputs[name]
