"""Large batches in small memory: the student reads chunks of rows, the losses see all of them."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kdkeras.distillation.batches import Batch, StudentOutputs
from kdkeras.distillation.chunks import Chunks, Read, joined, leaves, like_one, loop
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
    """The student's pass over a batch at once, with its activations kept.

    Args:
        read: The forward pass.
        batch: What it reads.
    """

    def __init__(self, read: Read, batch: Batch) -> None:
        self._read, self._batch = read, batch

    def outputs(self, tape: tf.GradientTape | None = None) -> StudentOutputs:
        """Returns the outputs; with a tape, gradients flow to them."""
        return self._read(self._batch)

    def gradients(self, tape: tf.GradientTape, loss: Any, variables: list[Any]) -> Gradients:
        """Returns the gradients of the tape's loss."""
        return tape.gradient(loss, variables)


class ChunkedPass(ForwardPass):
    """The student's pass over a batch chunk by chunk, with no activations kept.

    While training every chunk is read twice: for its outputs, and again, with
    the same dropout masks, to send the gradients of the outputs on to the
    weights. Both are loops in the graph. Gradients are added up in one dense
    tensor a weight, also those of tables.

    Args:
        read: The forward pass.
        batch: What it reads.
        size: The most rows of a chunk.
        student: The model that `read` runs.
        keep_rows: Whether to give the gradients of tables as
            `tf.IndexedSlices` of the rows that occurred, each once.

    References:
        Gao et al. (2021), GradCache, arXiv:2101.06983, section 3.2.
    """

    def __init__(
        self, read: Read, batch: Batch, size: int, student: keras.Model, keep_rows: bool
    ) -> None:
        # What only losses read is not cut.
        super().__init__(read, Batch(batch.source, batch.translation, None, None, {}, None))
        self._student, self._keep_rows = student, keep_rows
        self._states = random_states(student)
        self._chunks = Chunks(self._batch, size)

    def outputs(self, tape: tf.GradientTape | None = None) -> StudentOutputs:
        """Returns the outputs; with a tape, gradients stop at them."""
        if tape is None:
            like, _ = like_one(self._checked, self._chunks)
            return joined(self._read, self._chunks, like)
        with tape.stop_recording():
            like, graph = like_one(self._checked, self._chunks)
            _refuse_written(graph, self._states)
            self._before = [state.value * 1 for state in self._states]  # Times 1 to copy it.
            outputs = joined(self._read, self._chunks, like)
        self._outputs = leaves(outputs)
        tape.watch([x for x in self._outputs if x.dtype.is_floating])
        return outputs

    def gradients(self, tape: tf.GradientTape, loss: Any, variables: list[Any]) -> Gradients:
        """Returns the gradients of the tape's loss, through the outputs and beside them."""
        by_output, own = tape.gradient(loss, (self._outputs, variables))
        upstream = {i: self._chunks.cut(g) for i, g in enumerate(by_output) if g is not None}
        return add_gradients(own, self._through(upstream, variables)) if upstream else own

    def _through(self, upstream: dict[int, Any], variables: list[Any]) -> Gradients:
        for state, value in zip(self._states, self._before, strict=True):
            state.assign(value)
        sums = [tf.zeros(v.shape, v.dtype) for v in variables]
        # How often each row of a table occurred.
        seen = [tf.zeros(v.shape[:1]) for v in variables] if self._keep_rows else []
        last: Gradients = []

        def add(number: Any, sums: Gradients, seen: Gradients) -> tuple[Any, Gradients, Gradients]:
            with tf.GradientTape() as tape:
                outputs = leaves(self._read(self._chunks.at(number)))
            gradients = tape.gradient(
                [outputs[i] for i in upstream], variables, [u[number] for u in upstream.values()]
            )
            last[:] = gradients
            sums = [_add(s, g) for s, g in zip(sums, gradients, strict=True)]
            seen = [_add_seen(s, g) for s, g in zip(seen, gradients, strict=False)]
            return number + 1, sums, seen

        _, sums, seen = loop(self._chunks.number, add, sums, seen)
        # What the chunks' gradients are is known once one has been looked at.
        found = [None if g is None else s for s, g in zip(sums, last, strict=True)]
        for i, occurred in enumerate(seen):
            if isinstance(last[i], tf.IndexedSlices):
                found[i] = _only_seen(sums[i], occurred)
        return found

    def _checked(self, batch: Batch) -> StudentOutputs:
        outputs = self._read(batch)
        of_weights = sum(w.regularizer is not None for w in self._student.trainable_weights)
        if len(self._student.losses) > of_weights:
            raise InputError(
                "A student that reads in chunks may have losses on its weights only. Received: "
                f"{self._student.name!r}, with an activity_regularizer or add_loss() in a layer. "
                "Leave it out, or use micro_batches in place of chunk_size."
            )
        return outputs


def refuse_unfit_parts(micro_batches: int, chunk_size: int | None, student: keras.Model) -> None:
    """Refuses parts of no rows, and chunks that would not give the gradients of the whole batch.

    Raises:
        InputError: For no positive number, both of them, or a student in
            chunks that normalizes over the rows of a batch.
    """
    if micro_batches < 1:
        raise InputError(
            f"`micro_batches` must be 1 or more. Received: micro_batches={micro_batches}. "
            "Use 1 to run the batch as a whole."
        )
    if chunk_size is None:
        return
    if chunk_size < 1:
        raise InputError(
            f"`chunk_size` must be 1 or more. Received: chunk_size={chunk_size}. Use e.g. 256, or "
            "None to run the batch as a whole."
        )
    if micro_batches > 1:
        raise InputError(
            "`chunk_size` and `micro_batches` both divide a batch. Received: "
            f"chunk_size={chunk_size}, micro_batches={micro_batches}. Use chunk_size if losses "
            "shall see the whole batch, micro_batches if not."
        )
    for layer in student._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            raise InputError(
                "A student that reads in chunks must treat every row by itself. Received: "
                f"{layer.name!r}, a BatchNormalization. Use LayerNormalization, or micro_batches "
                "in place of chunk_size."
            )


def _refuse_written(graph: Any, states: list[Any]) -> None:
    """Refuses a student that keeps more than random states: chunks are read twice."""
    known = {id(state.value.handle) for state in states}
    given = {id(inside): outside for outside, inside in graph.captures}
    for op in graph.get_operations():
        if op.type.startswith("Assign") and op.type.endswith("VariableOp"):
            handle = given.get(id(op.inputs[0]))
            if handle is not None and id(handle) not in known:
                raise InputError(
                    "A student that reads in chunks may keep nothing from batch to batch. "
                    f"Received: a layer that assigns to a variable in {op.name!r}. Leave it out, "
                    "or use micro_batches in place of chunk_size."
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


def _add_seen(seen: Any, gradient: Any) -> Any:
    if not isinstance(gradient, tf.IndexedSlices):
        return seen
    ones = tf.ones_like(gradient.indices, seen.dtype)
    return tf.tensor_scatter_nd_add(seen, tf.expand_dims(gradient.indices, 1), ones)


def _only_seen(total: Any, seen: Any) -> tf.IndexedSlices:
    rows = tf.cast(tf.where(seen > 0)[:, 0], "int32")
    return tf.IndexedSlices(tf.gather(total, rows), rows, tf.shape(total))


def save_random_states(model: keras.Model, store: Any) -> None:
    """Writes them to what Keras gives to `save_own_variables`."""
    for i, state in enumerate(random_states(model)):
        store[f"random_state_{i}"] = keras.ops.convert_to_numpy(state)


def load_random_states(model: keras.Model, store: Any) -> None:
    """Reads them, so that training goes on with the next dropout mask."""
    for i, state in enumerate(random_states(model)):
        state.assign(store[f"random_state_{i}"])


def random_states(model: keras.Model) -> list[Any]:
    """Returns the variables that a model's random numbers follow from."""
    weights = {id(weight) for weight in model.weights}
    return [
        variable
        for variable in model.variables
        if id(variable) not in weights and variable.name == "seed_generator_state"
    ]
