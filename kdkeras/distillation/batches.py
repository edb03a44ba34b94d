"""What a batch is made of, and one forward pass for all of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from kdkeras import replicas
from kdkeras.distillation.features import Asked, named_outputs
from kdkeras.errors import InputError
from kdkeras.losses.base import ExampleLoss

__all__ = [
    "Batch",
    "Rows",
    "StudentOutputs",
    "forward",
    "named_output",
    "only",
    "refuse_lost_weights",
    "refuse_single_rows",
    "refuse_strings",
    "single_rows_refused",
    "unpack",
    "unpack_data",
]

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


class Rows(NamedTuple):
    """Rows of a batch, with what each of them weighs."""

    batch: Batch
    weight: Any
    """`(B,)` float, or None where all weigh 1."""

    @property
    def count(self) -> Any:
        """Number of rows, a float32 scalar."""
        parts = [self.batch.source, *self.batch.targets.values(), self.batch.labels]
        first = next(x for x in keras.tree.flatten(parts) if x is not None)
        return ops.cast(ops.shape(first)[0], "float32")

    def sum(self, values: Any) -> Any:
        """Sum of `weight * value` over the rows.

        Divided by the number of rows it is what Keras' losses give: rows of
        weight 0 count.
        """
        if self.weight is not None:
            values = values * ops.cast(self.weight, "float32")
        return ops.sum(values)

    def parts(self, number: int) -> Iterator[Rows]:
        """The rows in so many parts: part `i` holds the rows `i`, `i + number`, …."""
        if number == 1:
            yield self
            return
        for i in range(number):
            # Strided, so that the parts of equal replicas are together the parts of one device.
            yield keras.tree.map_structure(
                lambda x, i=i: None if x is None else x[i::number], self, none_is_leaf=True
            )


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


def forward(
    student: Any, batch: Batch, training: bool, asked: Asked | None = None
) -> StudentOutputs:
    """Runs the student once over both sides, joined to one batch of 2B rows.

    Args:
        student: The student, or its compiled call.
        batch: The batch.
        training: Whether dropout is on.
        asked: What to ask a student for, as `asked_outputs` says; None for its
            plain output.
    """
    if batch.translation is None:
        return StudentOutputs(named_outputs(student, batch.source, training, asked or {}), None)
    joined = {
        name: ops.concatenate([batch.source[name], batch.translation[name]], axis=0)
        for name in batch.source
    }
    outputs = named_outputs(student, joined, training, asked or {})
    halves = keras.tree.map_structure(lambda output: ops.split(output, 2, axis=0), outputs)
    source = keras.tree.map_structure_up_to(outputs, lambda half: half[0], halves)
    translation = keras.tree.map_structure_up_to(outputs, lambda half: half[1], halves)
    return StudentOutputs(source, translation)


def named_output(outputs: Any, name: str, side: str = "student") -> Any:
    """Returns the output that a loss reads.

    Args:
        outputs: A tensor, or a dict of outputs by name.
        name: `"embedding"`, `"logits"`, …
        side: Whose they are, for the error.

    Raises:
        InputError: If a dict lacks it.
    """
    if not isinstance(outputs, dict):
        return outputs
    if name not in outputs:
        raise InputError(
            f"The {side} must return what the losses read. Received: outputs "
            f"{sorted(outputs)}, a loss on {name!r}. Add the output, or set the loss's `target`."
        )
    return outputs[name]


def only(outputs: StudentOutputs, names: set[str]) -> StudentOutputs:
    """Leaves out what nothing reads, so that it is not kept.

    Raises:
        InputError: If an output that is read is missing.
    """
    source, translation = (
        {name: named_output(side, name) for name in sorted(names)}
        if isinstance(side, dict)
        else side
        for side in outputs
    )
    return StudentOutputs(source, translation)


def unpack_data(data: Any) -> Rows:
    """Sorts what Keras hands to a step: `(x, y, sample_weight)`, or fewer of them.

    Raises:
        InputError: If the weights are not one a row.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    # Given with arrays, Keras repeats the rows' weights for every target.
    weights = keras.tree.flatten(sample_weight)
    weight = weights[0] if weights else None
    if weight is not None and len(weight.shape) != 1:
        raise InputError(
            f"`sample_weight` is one number a row, `(B,)`. Received: shape {tuple(weight.shape)}. "
            "Flatten it."
        )
    return Rows(unpack(x, y), weight)


_RULE = "A loss that compares rows needs at least two in a batch."


def refuse_single_rows(
    rows: Rows, micro_batches: int, losses: Sequence[Mapping[str, ExampleLoss]], step: Any
) -> None:
    """Refuses a training whose batches, or micro-batches, have one row: the loss would be 0.

    Looks at the first batch alone where the size is not fixed: the last one of a
    pass may have a single row. In a graph the refusal comes when it runs; see
    `single_rows_refused`.

    Args:
        rows: This replica's rows.
        micro_batches: In so many parts they are compared.
        losses: The losses that are computed, by name.
        step: Number of updates that are done, an int scalar.

    Raises:
        InputError: If that is known already, naming the losses.
    """
    names = [name for some in losses for name, loss in some.items() if loss.compares_rows]
    if not names:
        return
    first = next(rows.parts(micro_batches))
    count = replicas.total(first.count)
    lone = count < 2
    if tf.executing_eagerly():
        refused = bool(lone) and int(step) == 0
    else:
        # A size that is fixed is that of all batches.
        fixed = tf.get_static_value(count)
        refused = fixed is not None and fixed < 2
    if refused:
        raise InputError(_message(names))
    allowed = tf.logical_or(tf.logical_not(lone), step > 0)
    # Not tf.debugging's, which carries its text through a branch: no TPU takes strings there.
    tf.raw_ops.Assert(condition=allowed, data=[tf.constant(_message(names))], summarize=1)


@contextmanager
def single_rows_refused() -> Iterator[None]:
    """Makes the refusal of a graph that of `refuse_single_rows`.

    Raises:
        InputError: In its place.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        start = error.message.find(_RULE)
        if start < 0:
            raise
        end = error.message.index("leave the loss out.", start) + len("leave the loss out.")
        raise InputError(error.message[start:end]) from None


def _message(names: list[str]) -> str:
    return (
        f"{_RULE} Received: batch size 1 (or one row in each micro-batch) and the loss "
        f"{' and '.join(names)}. Raise the batch size, or leave the loss out."
    )


def refuse_lost_weights(y: Any, sample_weight: Any) -> None:
    """Refuses sample weights that Keras would drop.

    Keras repeats the weights for every tensor in `y`, and drops them if there is none.

    Raises:
        InputError: If there are weights and nothing in `y`.
    """
    if sample_weight is not None and all(part is None for part in keras.tree.flatten(y)):
        raise InputError(
            "`sample_weight` needs targets or labels in `y`, otherwise Keras ignores it. "
            f"Received: y={y}. Give a tf.data.Dataset of (x, {{}}, sample_weight)."
        )


def refuse_strings(y: Any) -> None:
    """Refuses text among the targets.

    Raises:
        InputError: Naming the target.
    """
    for name, array in y.items() if isinstance(y, dict) else ():
        if getattr(getattr(array, "dtype", None), "kind", "f") in "OSU":
            raise InputError(
                f"Targets must be numbers. Received: y[{name!r}] of shape {tuple(array.shape)} and "
                f"type {array.dtype}. Give the teacher's outputs for the text, not the text."
            )
