"""The student's pass over a batch and back: at once, or chunk by chunk to save memory."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kdkeras.distillation.batches import Batch, StudentOutputs
from kdkeras.distillation.chunks import (
    Chunks,
    Forward,
    flat_tensors,
    graph_loop,
    run_chunks,
    trace_one_chunk,
)
from kdkeras.distillation.update import Gradients, add_gradients
from kdkeras.errors import InputError

__all__ = [
    "ChunkedPass",
    "ForwardPass",
    "load_random_states",
    "random_states",
    "refuse_unfit_parts",
    "save_random_states",
]


class ForwardPass:
    """The student's pass over a whole batch; its activations are stored.

    Args:
        function: The forward pass.
        batch: Argument of `function`.
    """

    def __init__(self, function: Forward, batch: Batch) -> None:
        self._function, self._batch = function, batch

    def outputs(self, tape: tf.GradientTape | None = None) -> StudentOutputs:
        """Returns the outputs; with a tape, it records them."""
        return self._function(self._batch)

    def gradients(self, tape: tf.GradientTape, loss: Any, variables: list[Any]) -> Gradients:
        """Returns the gradients of a loss that the tape recorded."""
        return tape.gradient(loss, variables)


class ChunkedPass(ForwardPass):
    """The student's pass over a batch chunk by chunk; no activations are stored.

    In training every chunk is run twice: for its outputs, and again, with the
    same dropout masks, to backpropagate the gradients of the outputs to the
    weights. Both are loops in the graph. Gradients are added up in one dense
    tensor per weight, also for embedding tables.

    Args:
        function: The forward pass.
        batch: Argument of `function`.
        chunk_size: Maximum number of rows in a chunk.
        student: The model that `function` runs.
        sparse: Whether to return the gradients of tables as `tf.IndexedSlices`
            of the rows that occurred, each once.

    References:
        Gao et al. (2021), GradCache, arXiv:2101.06983, section 3.2.
    """

    def __init__(
        self, function: Forward, batch: Batch, chunk_size: int, student: keras.Model, sparse: bool
    ) -> None:
        # The parts that only losses read are not split.
        super().__init__(function, Batch(batch.source, batch.translation))
        self._student, self._sparse = student, sparse
        self._random_states = random_states(student)
        self._chunks = Chunks(self._batch, chunk_size)

    def outputs(self, tape: tf.GradientTape | None = None) -> StudentOutputs:
        """Returns the outputs; with a tape, the gradients recorded by it end at them."""
        if tape is None:
            symbolic, _ = trace_one_chunk(self._checked, self._chunks)
            return run_chunks(self._function, self._chunks, symbolic)
        with tape.stop_recording():
            symbolic, graph = trace_one_chunk(self._checked, self._chunks)
            _refuse_assignments(graph, self._random_states)
            # Times 1 to copy it.
            self._states_before = [state.value * 1 for state in self._random_states]
            outputs = run_chunks(self._function, self._chunks, symbolic)
        self._outputs = flat_tensors(outputs)
        tape.watch([x for x in self._outputs if x.dtype.is_floating])
        return outputs

    def gradients(self, tape: tf.GradientTape, loss: Any, variables: list[Any]) -> Gradients:
        """Returns the gradients of a loss that the tape recorded, through the outputs and directly.

        Weights of losses and regularized weights have direct gradients.
        """
        by_output, direct = tape.gradient(loss, (self._outputs, variables))
        upstream = {
            i: self._chunks.split_gradients(g) for i, g in enumerate(by_output) if g is not None
        }
        return add_gradients(direct, self._backward(upstream, variables)) if upstream else direct

    def _backward(self, upstream: dict[int, Any], variables: list[Any]) -> Gradients:
        """Runs every chunk again, and backpropagates the gradients of its outputs."""
        for state, value in zip(self._random_states, self._states_before, strict=True):
            state.assign(value)
        sums = [tf.zeros(v.shape, v.dtype) for v in variables]
        # How often each row of a table occurred.
        counts = [tf.zeros(v.shape[:1]) for v in variables] if self._sparse else []
        last: Gradients = []

        def add(index: Any, sums: Gradients, counts: Gradients) -> tuple[Any, Gradients, Gradients]:
            with tf.GradientTape() as tape:
                outputs = flat_tensors(self._function(self._chunks.get(index)))
            gradients = tape.gradient(
                [outputs[i] for i in upstream], variables, [u[index] for u in upstream.values()]
            )
            last[:] = gradients
            sums = [_add(s, g) for s, g in zip(sums, gradients, strict=True)]
            counts = [_add_count(c, g) for c, g in zip(counts, gradients, strict=False)]
            return index + 1, sums, counts

        _, sums, counts = graph_loop(self._chunks.number, add, sums, counts)
        # The kinds of gradients (None, dense, sparse) are known after one chunk was traced.
        found = [None if g is None else s for s, g in zip(sums, last, strict=True)]
        for i, count in enumerate(counts):
            if isinstance(last[i], tf.IndexedSlices):
                found[i] = _occurring_rows(sums[i], count)
        return found

    def _checked(self, batch: Batch) -> StudentOutputs:
        outputs = self._function(batch)
        of_weights = sum(w.regularizer is not None for w in self._student.trainable_weights)
        if len(self._student.losses) > of_weights:
            raise InputError(
                "With `chunk_size`, a student may have losses on its weights only. Received: "
                f"{self._student.name!r}, with an activity_regularizer or add_loss() in a layer. "
                "Omit it, or use micro_batches instead of chunk_size."
            )
        return outputs


def refuse_unfit_parts(micro_batches: int, chunk_size: int | None, student: keras.Model) -> None:
    """Raises for invalid numbers, and for chunks whose gradients are not those of the batch.

    Raises:
        InputError: If a number is below 1, both are given, or a student in
            chunks normalizes over the rows of a batch.
    """
    if micro_batches < 1:
        raise InputError(
            f"`micro_batches` must be at least 1. Received: micro_batches={micro_batches}. "
            "Use 1 to run the whole batch at once."
        )
    if chunk_size is None:
        return
    if chunk_size < 1:
        raise InputError(
            f"`chunk_size` must be at least 1. Received: chunk_size={chunk_size}. Use e.g. 256, or "
            "None to run the whole batch at once."
        )
    if micro_batches > 1:
        raise InputError(
            "`chunk_size` and `micro_batches` both divide a batch. Received: "
            f"chunk_size={chunk_size}, micro_batches={micro_batches}. Use chunk_size if losses "
            "should see the whole batch, otherwise micro_batches."
        )
    for layer in student._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            raise InputError(
                "With `chunk_size`, a student must process every row separately. Received: "
                f"{layer.name!r}, a BatchNormalization. Use LayerNormalization, or micro_batches "
                "instead of chunk_size."
            )


def _refuse_assignments(graph: Any, states: list[Any]) -> None:
    """Raises if the student updates other variables than random states: chunks are run twice."""
    known = {id(state.value.handle) for state in states}
    captured = {id(inside): outside for outside, inside in graph.captures}
    for op in graph.get_operations():
        if op.type.startswith("Assign") and op.type.endswith("VariableOp"):
            handle = captured.get(id(op.inputs[0]))
            if handle is not None and id(handle) not in known:
                raise InputError(
                    "With `chunk_size`, a student may not update variables in its forward pass. "
                    f"Received: a layer that assigns to a variable in {op.name!r}. Omit it, or use "
                    "micro_batches instead of chunk_size."
                )


def _add(total: Any, gradient: Any) -> Any:
    if gradient is None:
        return total
    if isinstance(gradient, tf.IndexedSlices):
        rows = tf.expand_dims(gradient.indices, 1)
        return tf.tensor_scatter_nd_add(total, rows, tf.cast(gradient.values, total.dtype))
    added = total + gradient
    added.set_shape(total.shape)
    return added


def _add_count(count: Any, gradient: Any) -> Any:
    if not isinstance(gradient, tf.IndexedSlices):
        return count
    ones = tf.ones_like(gradient.indices, count.dtype)
    return tf.tensor_scatter_nd_add(count, tf.expand_dims(gradient.indices, 1), ones)


def _occurring_rows(total: Any, count: Any) -> tf.IndexedSlices:
    rows = tf.cast(tf.where(count > 0)[:, 0], "int32")
    return tf.IndexedSlices(tf.gather(total, rows), rows, tf.shape(total))


# ---- random states ------------------------------------------------------


def save_random_states(model: keras.Model, store: Any) -> None:
    """Writes the random states to the store that Keras passes to `save_own_variables`."""
    for i, state in enumerate(random_states(model)):
        store[f"random_state_{i}"] = keras.ops.convert_to_numpy(state)


def load_random_states(model: keras.Model, store: Any) -> None:
    """Reads the random states, so that training continues with the next dropout mask."""
    for i, state in enumerate(random_states(model)):
        state.assign(store[f"random_state_{i}"])


def random_states(model: keras.Model) -> list[Any]:
    """Returns the state variables of a model's random number generators."""
    weights = {id(weight) for weight in model.weights}
    return [
        variable
        for variable in model.variables
        if id(variable) not in weights and variable.name == "seed_generator_state"
    ]
