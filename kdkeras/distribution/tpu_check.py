"""Whether a training step can run on a TPU, found out without one.

Two checks, because each sees what the other does not. The traced graph is
walked for operations, types and shapes that a TPU cannot have, and tells the
line of Python they come from. Then XLA compiles the step, and its program is
read for dimensions that are not fixed and for calls out of the program.
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

# Kernels that a TPU has not, or whose result has a shape that depends on values.
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
# What XLA leaves out (assertions) or computes from shapes while it compiles.
LEFT_OUT = {"Assert", "BroadcastGradientArgs", "NoOp", "Placeholder"}

_FOREIGN = re.compile(r"[/\\](tensorflow|keras|kdkeras[/\\]distribution)[/\\]")
_HLO = re.compile(r"^\s*(?:ROOT )?%?(?P<name>[\w.-]+) = (?P<shape>\S+) (?P<op>[\w-]+)\(")
_METADATA = re.compile(r'op_type="(?P<type>[^"]*)" op_name="(?P<op>[^"]*)"')


@dataclasses.dataclass(frozen=True)
class TpuFinding:
    """One thing in a training step that a TPU cannot do.

    Attributes:
        op: Type of the operation.
        shape: Its result's type and shape.
        source: File and line of Python that made it, if known.
        reason: What is wrong with it.
    """

    op: str
    shape: str
    source: str
    reason: str

    def __str__(self) -> str:
        return f"{self.op} {self.shape} at {self.source}: {self.reason}"


def check_tpu(distiller: Distiller, batch: Any) -> list[TpuFinding]:
    """Looks for what a TPU could not run in a Distiller's training step.

    Nothing is trained. What a strategy adds for several TPU cores is not in
    the step that is checked here.

    Args:
        distiller: Compiled, made outside any strategy.
        batch: `(x, y)` or `(x, y, sample_weight)` of tensors or
            `tf.TensorSpec`s with static shapes.

    Returns:
        What was found; nothing if the step can run.

    Example:
        >>> check_tpu(distiller, batches.element_spec)  # doctest: +SKIP
        []
    """
    specs = tf.nest.map_structure(
        lambda x: x if isinstance(x, tf.TensorSpec) else tf.TensorSpec.from_tensor(x), batch
    )
    distiller.optimizer.build(distiller.trainable_weights)
    step = tf.function(distiller.train_step, autograph=False).get_concrete_function(specs)
    ops = list(_all_ops(step.graph, set()))
    found = list(dict.fromkeys(finding for op in ops for finding in _in_graph(op)))
    # XLA would end in an error at the first of them, without its line.
    return found or list(dict.fromkeys(_in_program(distiller, specs, ops)))


def _all_ops(graph: Any, seen: set[str]) -> Iterator[Any]:
    """The operations of a graph and of the functions that it calls."""
    yield from graph.get_operations()
    for name, function in graph._functions.items():
        if name not in seen and getattr(function, "graph", None) is not None:
            seen.add(name)
            yield from _all_ops(function.graph, seen)


def _in_graph(op: Any) -> Iterator[TpuFinding]:
    reason = None if op.type in LEFT_OUT or _only_for_assert(op) else _objection(op)
    if reason:
        shape = ", ".join(f"{t.dtype.name}{t.shape}" for t in op.outputs)
        yield TpuFinding(op.type, shape, _source(op), reason)


def _only_for_assert(op: Any) -> bool:
    users = [user for output in op.outputs for user in output.consumers()]
    return bool(users) and all(user.type == "Assert" for user in users)


def _objection(op: Any) -> str | None:
    if op.type in DENIED or op.type.startswith(DENIED_PREFIXES):
        return "no operation of a TPU"
    for tensor in (*op.inputs, *op.outputs):
        if tensor.dtype in DENIED_TYPES:
            return f"{DENIED_TYPES[tensor.dtype]} is no type of a TPU"
    for tensor in op.outputs:
        if tensor.dtype != tf.resource and not tensor.shape.is_fully_defined():
            return "its shape is not known before it runs"
    return None


def _source(op: Any) -> str:
    """The innermost line that is neither TensorFlow's nor Keras' nor this check's."""
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
            # XLA writes the path of calls before the name that the operation has in its function.
            op = next((by_name[n] for n in _ends(name) if n in by_name), None)
            reason = "a dimension is not fixed" if dynamic else "a call out of the program"
            source = name if op is None else f"{_source(op)} ({op.type})"
            yield TpuFinding(match["op"], match["shape"], source, reason)


def _ends(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[i:]) for i in range(len(parts)))
