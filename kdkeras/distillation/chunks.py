"""Rows of a batch in chunks, and loops over them in the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

__all__ = ["Chunks", "Read", "fits", "in_chunks", "joined", "leaves", "like_one", "loop"]

Read = Callable[[Any], Any]
"""A forward pass: from rows to outputs of as many rows, each a nest of tensors."""


class Chunks:
    """Rows cut into as few equal chunks as hold at most `size` rows each.

    The last chunk is filled up with rows from the front, fewer than there are
    chunks; their outputs are left out. So every chunk has one shape, known
    before anything runs where that of the batch is.

    Args:
        inputs: Nest of tensors `(B, ...)`; None is left alone.
        size: The most rows of a chunk.
    """

    def __init__(self, inputs: Any, size: int) -> None:
        self.rows = _rows(inputs)
        least = _ceil(self.rows, size)
        # A replica without rows has one chunk without rows.
        self.number = max(least, 1) if isinstance(least, int) else tf.maximum(least, 1)
        self.size = _ceil(self.rows, self.number)
        self.missing = self.number * self.size - self.rows
        self._inputs = _map(lambda x: self._cut(x, x[: self.missing]), inputs)

    def at(self, number: Any) -> Any:
        """Returns one chunk, as nested as the inputs."""
        return _map(lambda x: x[number], self._inputs)

    def join(self, outputs: Any) -> Any:
        """Returns `(B, ...)` of what all chunks gave, `(number, size, ...)`."""
        every = tf.reshape(outputs, (self.number * self.size, *_shape(outputs)[2:]))
        return every if _none(self.missing) else every[: self.rows]

    def cut(self, gradients: Any) -> Any:
        """Cuts gradients `(B, ...)` by rows; those of the filling are zero."""
        gradients = tf.convert_to_tensor(gradients)
        filling = tf.zeros((self.missing, *_shape(gradients)[1:]), gradients.dtype)
        return self._cut(gradients, filling)

    def _cut(self, x: Any, filling: Any) -> Any:
        filled = x if _none(self.missing) else tf.concat([x, filling], axis=0)
        return tf.reshape(filled, (self.number, self.size, *_shape(x)[1:]))


def fits(inputs: Any, size: int) -> bool:
    """Whether rows are known to be no more than a chunk."""
    rows = _rows(inputs)
    return isinstance(rows, int) and rows <= size


def in_chunks(read: Read, inputs: Any, size: int | None) -> Any:
    """Runs a forward pass without gradients chunk by chunk.

    Args:
        read: The forward pass.
        inputs: Nest of tensors `(B, ...)`.
        size: The most rows of a chunk; None for all at once.

    Returns:
        What `read` returns, for all rows.
    """
    if size is None or fits(inputs, size):
        return read(inputs)
    chunks = Chunks(inputs, size)
    return joined(read, chunks, like_one(read, chunks)[0])


def like_one(read: Read, chunks: Chunks) -> tuple[Any, Any]:
    """Returns what one chunk gives, in a graph of its own that is never run; and the graph."""
    graph = tf.__internal__.FuncGraph("one_chunk")
    with graph.as_default():
        return read(chunks.at(0)), graph


def joined(read: Read, chunks: Chunks, like: Any) -> Any:
    """Returns the outputs of all chunks, which are as `like_one` says."""

    def write(number: Any, arrays: list[Any]) -> tuple[Any, list[Any]]:
        outputs = leaves(read(chunks.at(number)))
        return number + 1, [a.write(number, x) for a, x in zip(arrays, outputs, strict=True)]

    arrays = [tf.TensorArray(x.dtype, chunks.number, element_shape=x.shape) for x in leaves(like)]
    if not arrays:
        return like
    _, arrays = loop(chunks.number, write, arrays)
    outputs = iter([chunks.join(array.stack()) for array in arrays])
    return _map(lambda _: next(outputs), like)


def loop(number: Any, body: Callable[..., Any], *variables: Any) -> Any:
    """Runs `body(i, *variables)` for every `i` below `number`, with the memory of one turn."""
    return tf.while_loop(
        lambda i, *_: i < number, body, (tf.constant(0), *variables), parallel_iterations=1
    )


def _rows(nest: Any) -> Any:
    """Number of rows: an int where it is known, else a tensor."""
    return _shape(leaves(nest)[0])[0]


def _shape(x: Any) -> tuple[Any, ...]:
    return tuple(keras.ops.shape(x))


def _ceil(a: Any, b: Any) -> Any:
    return -(-a // b)


def _none(count: Any) -> bool:
    return isinstance(count, int) and count == 0


def leaves(nest: Any) -> list[Any]:
    """Returns the tensors of a nest."""
    return [x for x in tf.nest.flatten(nest) if x is not None]


def _map(function: Callable[[Any], Any], nest: Any) -> Any:
    return tf.nest.map_structure(lambda x: None if x is None else function(x), nest)
