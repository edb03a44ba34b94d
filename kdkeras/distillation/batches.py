"""The parts of a batch, and one forward pass of the student over both sides."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import keras
import tensorflow as tf
from keras import ops

from kdkeras import replicas
from kdkeras.distillation.features import RequestedOutputs, run_model
from kdkeras.errors import InputError
from kdkeras.losses.base import ExampleLoss

__all__ = [
    "Batch",
    "StudentOutputs",
    "convert_single_row_error",
    "forward",
    "refuse_dropped_sample_weight",
    "refuse_single_rows",
    "refuse_text_targets",
    "select_output",
    "select_outputs",
    "unpack",
    "unpack_data",
]

SOURCE, TRANSLATION, TEACHER = "source_", "translation_", "teacher_"


class Batch(NamedTuple):
    """The parts of one batch; on each replica, of its own rows."""

    source: Any
    """Student inputs of the source side."""
    translation: Any = None
    """Student inputs of the translation side, or None."""
    teacher: Any = None
    """Inputs of a live teacher, or None if it reads those of the source side."""
    source_id: Any = None
    """`(B,)` int, equal for equal source sentences, or None."""
    targets: Mapping[str, Any] = {}
    """Cached teacher targets by name."""
    labels: Any = None
    """Ground truth for the task loss, or None."""
    sample_weight: Any = None
    """`(B,)` float, or None if every row has weight 1."""

    @property
    def count(self) -> Any:
        """Number of rows, a float32 scalar."""
        parts = [self.source, *self.targets.values(), self.labels]
        first = next(x for x in keras.tree.flatten(parts) if x is not None)
        return ops.cast(ops.shape(first)[0], "float32")

    def weighted_sum(self, values: Any) -> Any:
        """Returns the sum of `sample_weight * value` over the rows, a scalar.

        Divided by the number of rows, this is the mean that Keras' losses
        compute: rows of weight 0 count.
        """
        if self.sample_weight is not None:
            values = values * ops.cast(self.sample_weight, "float32")
        return ops.sum(values)

    def split(self, number: int) -> Iterator[Batch]:
        """Yields micro-batches: number `i` holds the rows `i`, `i + number`, …."""
        if number == 1:
            yield self
            return
        for i in range(number):
            # With a stride, the micro-batches of equal replicas form those of one device.
            yield keras.tree.map_structure(
                lambda x, i=i: None if x is None else x[i::number], self, none_is_leaf=True
            )


class StudentOutputs(NamedTuple):
    """The student's outputs for both sides."""

    source: Any
    translation: Any


# ---- unpacking ------------------------------------------------------------


def unpack_data(data: Any) -> Batch:
    """Unpacks the argument of a Keras step: `(x, y, sample_weight)`, or fewer of them.

    Raises:
        InputError: If the shape of `sample_weight` is not `(B,)`.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    # For arrays, Keras repeats the sample weights for every target.
    weights = keras.tree.flatten(sample_weight)
    weight = weights[0] if weights else None
    if weight is not None and len(weight.shape) != 1:
        raise InputError(
            "`sample_weight` must have shape `(B,)`, one number per row. "
            f"Received: shape {tuple(weight.shape)}. Flatten it."
        )
    return unpack(x, y)._replace(sample_weight=weight)


def unpack(x: Any, y: Any) -> Batch:
    """Sorts the tensors of a batch into its parts.

    Args:
        x: A dict with `source_token_ids`, `source_padding_mask` and, for two
            languages, the same names with `translation_`; optionally
            `source_id`, and a live teacher's own inputs with `teacher_`.
            Anything else is passed to the student unchanged.
        y: A dict of teacher targets (`embedding`, `logits`) and, optionally,
            `label`. Anything else is the label.
    """
    if isinstance(y, dict):
        targets = {name: value for name, value in y.items() if name != "label"}
        labels = y.get("label")
    else:
        targets, labels = {}, y
    if not (isinstance(x, dict) and any(name.startswith(SOURCE) for name in x)):
        return Batch(x, targets=targets, labels=labels)
    return Batch(
        source=_side(x, SOURCE),
        translation=_side(x, TRANSLATION),
        teacher=_side(x, TEACHER),
        source_id=x.get("source_id"),
        targets=targets,
        labels=labels,
    )


def _side(x: Mapping[str, Any], prefix: str) -> dict[str, Any] | None:
    names = [name for name in x if name.startswith(prefix) and name != "source_id"]
    return {name.removeprefix(prefix): x[name] for name in names} or None


# ---- forward pass ---------------------------------------------------------


def forward(
    student: Any, batch: Batch, training: bool, requested: RequestedOutputs | None = None
) -> StudentOutputs:
    """Runs the student once over both sides, concatenated to one batch of 2B rows.

    Args:
        student: The student, or its compiled call.
        batch: The batch.
        training: Whether dropout is active.
        requested: Result of `requested_outputs`; None for the student's
            default output.
    """
    if batch.translation is None:
        return StudentOutputs(run_model(student, batch.source, training, requested or {}), None)
    both = {
        name: ops.concatenate([batch.source[name], batch.translation[name]], axis=0)
        for name in batch.source
    }
    outputs = run_model(student, both, training, requested or {})
    halves = keras.tree.map_structure(lambda output: ops.split(output, 2, axis=0), outputs)
    source = keras.tree.map_structure_up_to(outputs, lambda half: half[0], halves)
    translation = keras.tree.map_structure_up_to(outputs, lambda half: half[1], halves)
    return StudentOutputs(source, translation)


def select_output(outputs: Any, name: str, model: str = "student") -> Any:
    """Returns the output that a loss reads.

    Args:
        outputs: A tensor, or a dict of outputs by name.
        name: `"embedding"`, `"logits"`, …
        model: `"student"` or `"teacher"`, for the error message.

    Raises:
        InputError: If the name is not in the dict.
    """
    if not isinstance(outputs, dict):
        return outputs
    if name not in outputs:
        raise InputError(
            f"The {model} must return the outputs that the losses read. Received: outputs "
            f"{sorted(outputs)}, a loss on {name!r}. Add the output, or set the loss's `target`."
        )
    return outputs[name]


def select_outputs(outputs: StudentOutputs, names: set[str]) -> StudentOutputs:
    """Drops the outputs that nothing reads, so that they use no memory.

    Raises:
        InputError: If an output that is read is missing.
    """
    source, translation = (
        {name: select_output(side, name) for name in sorted(names)}
        if isinstance(side, dict)
        else side
        for side in outputs
    )
    return StudentOutputs(source, translation)


# ---- checks ---------------------------------------------------------------


_RULE = "A loss that compares rows needs at least two in a batch."
_NEXT_STEP = "Increase the batch size, or omit the loss."


def refuse_single_rows(
    batch: Batch, micro_batches: int, losses: Sequence[Mapping[str, ExampleLoss]], step: Any
) -> None:
    """Raises if losses that compare rows are trained on batches of one row: they would be 0.

    This applies to micro-batches, too. If the batch size is not fixed, only the
    first step is checked, because the last batch of an epoch may have one row.
    In a graph the check runs with the step; see `convert_single_row_error`.

    Args:
        batch: This replica's rows.
        micro_batches: Number of micro-batches.
        losses: The losses that are computed, by name.
        step: Number of finished updates, an int scalar.

    Raises:
        InputError: If the size is known now, naming the losses.
    """
    names = [name for by_name in losses for name, loss in by_name.items() if loss.compares_rows]
    if not names:
        return
    first = next(batch.split(micro_batches))
    count = replicas.total(first.count)
    too_few = count < 2
    if tf.executing_eagerly():
        refused = bool(too_few) and int(step) == 0
    else:
        # A static size applies to all batches.
        static = tf.get_static_value(count)
        refused = static is not None and static < 2
    if refused:
        raise InputError(_message(names))
    allowed = tf.logical_or(tf.logical_not(too_few), step > 0)
    # tf.debugging.Assert passes its text through a branch; TPUs have no strings there.
    tf.raw_ops.Assert(condition=allowed, data=[tf.constant(_message(names))], summarize=1)


@contextmanager
def convert_single_row_error() -> Iterator[None]:
    """Converts the graph error of `refuse_single_rows` to an `InputError`.

    Raises:
        InputError: With the message of `refuse_single_rows`.
    """
    try:
        yield
    except tf.errors.InvalidArgumentError as error:
        start = error.message.find(_RULE)
        if start < 0:
            raise
        end = error.message.index(_NEXT_STEP, start) + len(_NEXT_STEP)
        raise InputError(error.message[start:end]) from None


def _message(names: list[str]) -> str:
    return (
        f"{_RULE} Received: batch size 1 (or one row in each micro-batch) and the loss "
        f"{' and '.join(names)}. {_NEXT_STEP}"
    )


def refuse_dropped_sample_weight(y: Any, sample_weight: Any) -> None:
    """Raises if Keras would ignore the sample weights.

    Keras repeats the weights for every tensor in `y`, and drops them if there is none.

    Raises:
        InputError: If there are weights and `y` is empty.
    """
    if sample_weight is not None and all(part is None for part in keras.tree.flatten(y)):
        raise InputError(
            "`sample_weight` needs targets or labels in `y`, otherwise Keras ignores it. "
            f"Received: y={y}. Pass a tf.data.Dataset of (x, {{}}, sample_weight)."
        )


def refuse_text_targets(y: Any) -> None:
    """Raises if a target is an array of strings.

    Raises:
        InputError: Naming the target.
    """
    for name, array in y.items() if isinstance(y, dict) else ():
        if getattr(getattr(array, "dtype", None), "kind", "f") in "OSU":
            raise InputError(
                f"Targets must be numbers. Received: y[{name!r}] of shape {tuple(array.shape)} and "
                f"dtype {array.dtype}. Pass the teacher's outputs for the text, not the text."
            )
