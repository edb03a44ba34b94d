"""Losses that compare rows, in batches of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import tensorflow as tf

from kdkeras import replicas
from kdkeras.distillation.batches import Rows
from kdkeras.errors import InputError
from kdkeras.losses.base import ExampleLoss

__all__ = ["lone_rows_refused", "refuse_lone_rows"]

_RULE = "A loss that compares rows needs at least two in a batch."


def refuse_lone_rows(
    rows: Rows, micro_batches: int, losses: Sequence[Mapping[str, ExampleLoss]], step: Any
) -> None:
    """Refuses a training whose batches, or micro-batches, have one row: the loss would be 0.

    Looks at the first batch alone where the size is not fixed: the last one of a
    pass may have a single row. In a graph the refusal comes when it runs; see
    `lone_rows_refused`.

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
def lone_rows_refused() -> Iterator[None]:
    """Makes the refusal of a graph that of `refuse_lone_rows`.

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
