"""A check, without a TPU, that a training step can run on one.

Two checks complement each other. The traced graph is searched for operations,
types and shapes that a TPU does not support, and gives the line of Python that
created them. Then XLA compiles the step, and its program is searched for
dimensions that are not fixed and for calls that leave the program.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from kdkeras.distillation import Distiller

__all__ = ["TpuFinding", "check_tpu"]

# Operations without a TPU kernel, or whose result has a shape that depends on values.
DENIED = {
    "EagerPyFunc",
    "LookupTableFindV2",
    "PyFunc",
    "PyFuncStateless",
    "Print",
    "PrintV2",
    "Unique",
    "UniqueV2",
    "UniqueWithCounts",
    "Where",
}
DENIED_PREFIXES = ("Ragged", "Sparse", "String", "Regex", "Decode", "Encode", "Lookup")
DENIED_TYPES = {tf.string: "string", tf.float64: "float64", tf.complex128: "complex128"}
# Operations that XLA omits (assertions) or computes from shapes during compilation.
OMITTED = {"Assert", "BroadcastGradientArgs", "NoOp", "Placeholder"}

_FOREIGN = re.compile(r"[/\\](tensorflow|keras|kdkeras[/\\]distribution)[/\\]")
_HLO = re.compile(r"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>\S+) (?P<op>[\w-]+)\(")
_METADATA = re.compile(r'op_type="(?P<type>[^"]*)" op_name="(?P<op>[^"]*)"')


@dataclasses.dataclass(frozen=True)
class TpuFinding:
    """A part of a training step that cannot run on a TPU.

    Attributes:
        op: Type of the operation, e.g. `"Where"`.
        shape: Type and shape of its result, e.g. `"float32(8, 3)"`.
        source: File and line of the Python code that created it, e.g.
            `"losses.py:42"`; `"an unknown line"` if TensorFlow does not know.
        reason: Why it cannot run on a TPU.
    """

    op: str
    shape: str
    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.op} {self.shape} at {self.source}: {self.reason}"


def check_tpu(distiller: Distiller, batch: Any) -> list[TpuFinding]:
    """Checks whether a Distiller's training step can run on a TPU.

    The step is traced and compiled by XLA on this machine, without a TPU.
    Nothing is trained: weights and optimizer state do not change. Operations
    that a strategy adds for several TPU cores are not part of the check.

    Args:
        distiller: A compiled Distiller, created outside any strategy.
        batch: `(x, y)` or `(x, y, sample_weight)` of tensors or
            `tf.TensorSpec`s with static shapes, as in the training. Batches
            from `DistillationSet.batches` have static shapes if
            `bucket_boundaries` is a single length.

    Returns:
        One `TpuFinding` for each operation that cannot run on a TPU; an empty
        list if there is none.

    Example:
        >>> x, y = dataset.batches(  # doctest: +SKIP
        ...     256, vocabulary, sequence_length=32, bucket_boundaries=[32]
        ... ).element_spec
        >>> check_tpu(distiller, (x, y))  # doctest: +SKIP
        []
    """
    specs = tf.nest.map_structure(
        lambda x: x if isinstance(x, tf.TensorSpec) else tf.TensorSpec.from_tensor(x), batch
    )
    distiller.optimizer.build(distiller.trainable_weights)
    step = tf.function(distiller.train_step, autograph=False).get_concrete_function(specs)
    ops = list(_all_ops(step.graph, set()))
    found = list(dict.fromkeys(finding for op in ops for finding in _in_graph(op)))
    # With unsupported operations XLA stops at the first one and does not name its line.
    return found or list(dict.fromkeys(_in_program(distiller, specs, ops)))


def _all_ops(graph: Any, seen: set[str]) -> Iterator[Any]:
    """Yields the operations of a graph and of the functions that it calls."""
    yield from graph.get_operations()
    for name, function in graph._functions.items():
        if name not in seen and getattr(function, "graph", None) is not None:
            seen.add(name)
            yield from _all_ops(function.graph, seen)


def _in_graph(op: Any) -> Iterator[TpuFinding]:
    reason = None if op.type in OMITTED or _only_for_assert(op) else _objection(op)
    if reason:
        shape = ", ".join(f"{t.dtype.name}{t.shape}" for t in op.outputs)
        yield TpuFinding(op.type, shape, _source(op), reason)


def _only_for_assert(op: Any) -> bool:
    users = [user for output in op.outputs for user in output.consumers()]
    return bool(users) and all(user.type == "Assert" for user in users)


def _objection(op: Any) -> str | None:
    if op.type in DENIED or op.type.startswith(DENIED_PREFIXES):
        return "a TPU does not support this operation"
    for tensor in (*op.inputs, *op.outputs):
        if tensor.dtype in DENIED_TYPES:
            return f"a TPU does not support the type {DENIED_TYPES[tensor.dtype]}"
    for tensor in op.outputs:
        if tensor.dtype != tf.resource and not tensor.shape.is_fully_defined():
            return "its shape is not known before the step runs"
    return None


def _source(op: Any) -> str:
    """Returns the innermost line outside TensorFlow, Keras and this check."""
    for frame in reversed(op.traceback or ()):
        if not _FOREIGN.search(frame.filename):
            return f"{Path(frame.filename).name}:{frame.lineno}"
    return "an unknown line"


def _in_program(distiller: Distiller, specs: Any, ops: list[Any]) -> Iterator[TpuFinding]:
    compiled = tf.function(distiller.train_step, autograph=False, jit_compile=True)
    try:
        zeros = tf.nest.map_structure(lambda spec: tf.zeros(spec.shape, spec.dtype), specs)
        program = compiled.experimental_get_compiler_ir(zeros)(stage="hlo")
    except (ValueError, tf.errors.OpError) as error:
        yield TpuFinding("XLA", "", "the compiler", str(error).strip().splitlines()[0])
        return
    by_name = {op.name: op for op in ops}
    for line in program.splitlines():
        match = _HLO.match(line)
        if match is None:
            continue
        dynamic = "<=" in match["shape"]
        if dynamic or match["op"] == "custom-call":
            made_by = _METADATA.search(line)
            name = made_by["op"] if made_by else match["name"]
            # XLA prefixes the operation's name with the path of function calls.
            op = next((by_name[n] for n in _ends(name) if n in by_name), None)
            reason = "a dimension is not fixed" if dynamic else "it calls code outside the program"
            source = name if op is None else f"{_source(op)} ({op.type})"
            yield TpuFinding(match["op"], match["shape"], source, reason)


def _ends(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[i:]) for i in range(len(parts)))
