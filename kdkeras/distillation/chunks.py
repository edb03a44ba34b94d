"""Splits a batch into chunks of rows, and runs loops over the chunks in the graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

__all__ = [
    "Chunks",
    "Forward",
    "fits_in_one_chunk",
    "flat_tensors",
    "graph_loop",
    "run_chunks",
    "run_in_chunks",
    "trace_one_chunk",
]

Forward = Callable[[Any], Any]
"""A forward pass: a nest of tensors to a nest of outputs with the same number of rows."""


class Chunks:
    """A batch split into the smallest number of equal chunks of at most `max_size` rows.

    The last chunk is padded with rows from the start of the batch; there are
    fewer padding rows than chunks, and their outputs are dropped. All chunks
    then have one shape, which is static if that of the batch is.

    Args:
        inputs: Nest of tensors `(B, ...)`; None is kept.
        max_size: Maximum number of rows in a chunk.

    Attributes:
        rows: Number of rows `B`.
        number: Number of chunks.
        size: Number of rows in each chunk.
        padding: Number of padding rows.
    """

    def __init__(self, inputs: Any, max_size: int) -> None:
        self.rows = _num_rows(inputs)
        number = _ceil_divide(self.rows, max_size)
        # A replica without rows has one chunk without rows.
        self.number = max(number, 1) if isinstance(number, int) else tf.maximum(number, 1)
        self.size = _ceil_divide(self.rows, self.number)
        self.padding = self.number * self.size - self.rows
        self._inputs = _map(lambda x: self._reshape(x, x[: self.padding]), inputs)

    def get(self, index: Any) -> Any:
        """Returns one chunk, with the nesting of the inputs."""
        return _map(lambda x: x[index], self._inputs)

    def join(self, outputs: Any) -> Any:
        """Returns `(B, ...)` from the outputs of all chunks, `(number, size, ...)`."""
        rows = tf.reshape(outputs, (self.number * self.size, *_shape(outputs)[2:]))
        return rows if _is_zero(self.padding) else rows[: self.rows]

    def split_gradients(self, gradients: Any) -> Any:
        """Splits gradients `(B, ...)` into chunks; padding rows get zero gradients."""
        gradients = tf.convert_to_tensor(gradients)
        zeros = tf.zeros((self.padding, *_shape(gradients)[1:]), gradients.dtype)
        return self._reshape(gradients, zeros)

    def _reshape(self, x: Any, padding: Any) -> Any:
        padded = x if _is_zero(self.padding) else tf.concat([x, padding], axis=0)
        return tf.reshape(padded, (self.number, self.size, *_shape(x)[1:]))


def fits_in_one_chunk(inputs: Any, max_size: int) -> bool:
    """Returns whether the number of rows is static and at most `max_size`."""
    rows = _num_rows(inputs)
    return isinstance(rows, int) and rows <= max_size


def run_in_chunks(function: Forward, inputs: Any, max_size: int | None) -> Any:
    """Runs a forward pass without gradients, chunk by chunk.

    Args:
        function: The forward pass.
        inputs: Nest of tensors `(B, ...)`.
        max_size: Maximum number of rows in a chunk; None for the whole batch.

    Returns:
        The outputs of `function` for all rows.
    """
    if max_size is None or fits_in_one_chunk(inputs, max_size):
        return function(inputs)
    chunks = Chunks(inputs, max_size)
    return run_chunks(function, chunks, trace_one_chunk(function, chunks)[0])


def trace_one_chunk(function: Forward, chunks: Chunks) -> tuple[Any, Any]:
    """Returns symbolic outputs of one chunk, and the graph of them, which is never run."""
    graph = tf.__internal__.FuncGraph("one_chunk")
    with graph.as_default():
        return function(chunks.get(0)), graph


def run_chunks(function: Forward, chunks: Chunks, symbolic: Any) -> Any:
    """Returns the outputs of all chunks; `symbolic` is the result of `trace_one_chunk`."""

    def write(index: Any, arrays: list[Any]) -> tuple[Any, list[Any]]:
        outputs = flat_tensors(function(chunks.get(index)))
        return index + 1, [a.write(index, x) for a, x in zip(arrays, outputs, strict=True)]

    arrays = [
        tf.TensorArray(x.dtype, chunks.number, element_shape=x.shape)
        for x in flat_tensors(symbolic)
    ]
    if not arrays:
        return symbolic
    _, arrays = graph_loop(chunks.number, write, arrays)
    outputs = iter([chunks.join(array.stack()) for array in arrays])
    return _map(lambda _: next(outputs), symbolic)


def graph_loop(number: Any, body: Callable[..., Any], *variables: Any) -> Any:
    """Runs `body(i, *variables)` for every `i` below `number`, with the memory of one iteration."""
    return tf.while_loop(
        lambda i, *_: i < number, body, (tf.constant(0), *variables), parallel_iterations=1
    )


def flat_tensors(nest: Any) -> list[Any]:
    """Returns the tensors of a nest, without None."""
    return [x for x in tf.nest.flatten(nest) if x is not None]


def _num_rows(nest: Any) -> Any:
    """Number of rows: an int if it is static, otherwise a tensor."""
    return _shape(flat_tensors(nest)[0])[0]


def _shape(x: Any) -> tuple[Any, ...]:
    return tuple(keras.ops.shape(x))


def _ceil_divide(a: Any, b: Any) -> Any:
    return -(-a // b)


def _is_zero(count: Any) -> bool:
    return isinstance(count, int) and count == 0


def _map(function: Callable[[Any], Any], nest: Any) -> Any:
    return tf.nest.map_structure(lambda x: None if x is None else function(x), nest)
