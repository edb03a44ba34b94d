"""Growth whose factors are learned: LiGO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kdkeras.errors import InputError
from kdkeras.growth.axes import LAYERS, ModelAxes, Pieces, Side
from kdkeras.growth.axis_map import AxisMap
from kdkeras.growth.certificate import Step, probe_batch
from kdkeras.growth.certifying import certify, with_certificate
from kdkeras.growth.depth import NewLayer
from kdkeras.growth.described import describe, is_backbone
from kdkeras.growth.expand import Values, merged_shape
from kdkeras.growth.growing import new_layers
from kdkeras.growth.larger import (
    assign_values,
    larger_static,
    larger_transformer,
    old_values,
    refuse_unfinished,
)
from kdkeras.growth.maps import Width
from kdkeras.growth.plan import GrowthPlan
from kdkeras.growth.sizes import check_names
from kdkeras.students import StaticStudent, Student

__all__ = ["LearnedOperators"]

Factor = tuple[str, str, bool]
"""Axis, role, and whether it is read."""


class LearnedOperators:
    """The factors of one model's growth, which can be trained.

    Formula, for a weight `W_l` of layer `l`, with the factors `E` of the axis that it
    writes and `F` of the one that it reads:

    ```
    W'_l = sum_k M[l, k] F W_k E,     b'_l = sum_k M[l, k] b_k E
    ```

    `E` and `F` of an axis are shared by all layers and all weights that use the axis
    (queries, keys and values have an `E` of their own for heads and their size);
    `M` is shared by nothing: each kind of weight mixes layers in its own way. Norms'
    scales and shifts are written as biases are. They start where the plan's
    operators are, and nothing holds `E F = I` from there on.

    The paper's `E` of heads is one matrix over all their units; here it is the
    Kronecker product of one for heads and one for units in a head, and `F` is a
    factor of its own, not the transpose of `E`.

    Args:
        model: The student that grows; it stays as it is.
        plan: What it grows to, with `keeps_function=False`.

    Attributes:
        losses: The loss of each step that the factors were trained for.

    Raises:
        InputError: If the plan does not fit the model, says that it keeps the
            function, adds tokens, or has nothing to learn.

    References:
        Wang et al. (2023), Learning to Grow Pretrained Models for Efficient
        Transformer Training, arXiv:2303.00980.
    """

    def __init__(self, model: Student, plan: GrowthPlan) -> None:
        axes = describe(model)
        refuse_unfinished(model)
        check_names(model, plan)
        _refuse_unfit(model, plan)
        self.losses: tuple[float, ...] = ()
        self._model, self._plan, self._axes = model, plan, axes
        self._width = Width.of(model, axes, plan)
        if self._width.from_above or self._width.masked:
            raise InputError(
                "Learned factors start at products. Received: an operator that takes units from "
                "the layer above, or masks them. Use Net2Wider()."
            )
        self._target, self._old = self._new_student()
        self._dtype = model.variable_dtype
        # Made here: inside a graph they would be constants of it.
        self._stacks = self._as_stacks(self._dtype)
        num_layers = getattr(model, LAYERS, 0)
        layers, self._depth_steps = new_layers(num_layers, plan)
        self._factors = self._start_factors()
        start = _Mixing(axes, layers, num_layers)
        rows = start.rows if self._depth_steps else {}
        self._constants = start.constants
        self._mixing = {name: self._variable(array) for name, array in rows.items()}
        if not self.trainable_variables:
            raise InputError(
                "There must be something to learn. Received: a plan without a larger size. "
                "Name one, e.g. GrowthPlan(sizes={'hidden_dim': 512}, keeps_function=False)."
            )

    @property
    def target(self) -> Student:
        """A student of the new sizes, whose weights are given to it by `values`."""
        return self._target

    @property
    def plan(self) -> GrowthPlan:
        """The plan whose operators learning started at."""
        return self._plan

    def maps(self) -> dict[tuple[str, str], AxisMap]:
        """Returns the map of each axis and role, the plan's with the learned `E` and `F` in it.

        `E F` is no identity any more. Queries and keys have no `F` that is learned.
        """

        def learned(axis: str, role: str, reads: bool, start: Any) -> Any:
            variable = self._factors.get((axis, role, reads))
            return start if variable is None else variable.value.numpy()

        return {
            (axis, role): AxisMap(
                expand=learned(axis, role, False, pair.expand),
                contract=learned(axis, role, True, pair.contract),
                exact=False,
            )
            for (axis, role), pair in self._width.maps.items()
        }

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """All factors."""
        return [*self._factors.values(), *self._mixing.values()]

    def factors(self) -> dict[str, np.ndarray]:
        """Returns the factors by name: `hidden_dim.E`, `num_heads.query.E`, `hidden_dim.F`."""
        found = {}
        for (axis, role, reads), variable in self._factors.items():
            name = ".".join([axis, *([role] if role != "main" else []), "F" if reads else "E"])
            found[name] = variable.value.numpy()
        return found

    def mixing(self) -> dict[str, np.ndarray]:
        """Returns `M`, `(new layers, layers)`, by kind of weight, e.g. `qkv_dense.kernel`."""
        return {name: variable.value.numpy() for name, variable in self._mixing.items()}

    def values(self, dtype: str | None = None) -> dict[str, Any]:
        """Multiplies out: the weights of the larger model by path, tensors of `dtype`."""
        dtype = dtype or self._dtype
        axes, found = self._axes, {}
        stacks = self._stacks if dtype == self._dtype else self._as_stacks(dtype)
        for path, pieces in axes.weights.items():
            if path in stacks:
                found[path] = self._wide(stacks[path], pieces)[0]
        for name, pieces in axes.layer_weights.items():
            stack = self._wide(stacks[name], pieces)
            if name in self._mixing:
                rows = ops.cast(self._mixing[name].value, dtype)
                constant = ops.convert_to_tensor(self._constants[name], dtype=dtype)
                constant = ops.reshape(constant, (-1, *[1] * (len(stack.shape) - 1)))
                stack = ops.tensordot(rows, stack, axes=1) + constant
            for number in range(stack.shape[0]):
                found[f"{axes.stacks[0]}.{number}.{name}"] = stack[number]
        return found

    def grow(self, probe: Sequence[str] | dict[str, Any] | None = None) -> Student:
        """Makes the larger student, in plain weights.

        Args:
            probe: As for `kdkeras.growth.grow`.

        Returns:
            A student of its own, whose `certificate` says how far it is from the old one.
        """
        batch, source = probe_batch(self._model, probe)
        grown, _ = self._new_student()
        assign_values(grown, {k: v.numpy() for k, v in self.values("float64").items()})
        steps = tuple(
            Step(
                size=step.size,
                operator=f"LiGO from {step.operator}",
                before=step.before,
                after=step.after,
                keeps_function=False,
            )
            for step in (*self._width.steps, *self._depth_steps)
        )
        parts = (batch, source, probe)
        certificate = certify(self._model, grown, self._plan, self._width, steps, parts)
        return with_certificate(grown, certificate)

    def _as_stacks(self, dtype: str) -> dict[str, Any]:
        """The old weights by path, `(1, ...)`; of layers by kind, `(layers, ...)`."""
        axes = self._axes
        stacks = {path: a[None] for path, a in self._old.items() if path in axes.weights}
        for name in axes.layer_weights:
            paths = [path for path in self._old if path.endswith(f".{name}")]
            stacks[name] = np.stack([self._old[path] for path in paths])
        return {key: ops.convert_to_tensor(a, dtype=dtype) for key, a in stacks.items()}

    def _new_student(self) -> tuple[Student, Values]:
        old = old_values(self._model)
        if isinstance(self._model, StaticStudent):
            return larger_static(self._model, self._plan, self._width), old
        return larger_transformer(self._model, self._plan, self._width, old)  # type: ignore[arg-type]

    def _start_factors(self) -> dict[Factor, keras.Variable]:
        every = [*self._axes.weights.values(), *self._axes.layer_weights.values()]
        sides = [side for pieces in every for piece in pieces for side in piece if side]
        found: dict[Factor, keras.Variable] = {}
        for side in sides:
            pair = self._width.maps[side.axis, side.role]
            key = (side.axis, side.role, side.reads)
            if pair.size != pair.new_size and key not in found:
                matrix = pair.contract if side.reads else pair.expand
                found[key] = self._variable(matrix.toarray())
        return found

    def _variable(self, start: np.ndarray) -> keras.Variable:
        return keras.Variable(start, dtype=self._dtype)

    def _wide(self, stack: Any, pieces: Pieces) -> Any:
        """Weights of one kind, `(layers, ...)`, on their larger axes."""
        parts = ops.split(stack, len(pieces), axis=-1)
        wide = [self._wide_piece(part, piece) for part, piece in zip(parts, pieces, strict=True)]
        return ops.concatenate(wide, axis=-1)

    def _wide_piece(self, stack: Any, piece: tuple[Side | None, ...]) -> Any:
        sizes = [self._width.maps[s.axis, s.role].size if s else -1 for s in piece]
        wide = ops.reshape(stack, (stack.shape[0], *sizes))
        for dimension, side in enumerate(piece, start=1):
            factor = self._factors.get((side.axis, side.role, side.reads)) if side else None
            if side is not None and factor is not None:
                matrix = ops.cast(factor.value, stack.dtype)
                # F is (new, old), E (old, new).
                wide = ops.tensordot(wide, matrix, axes=[[dimension], [1 if side.reads else 0]])
                wide = ops.moveaxis(wide, -1, dimension)
        shape = merged_shape(len(stack.shape) - 1, piece, tuple(wide.shape[1:]))
        return ops.reshape(wide, (stack.shape[0], *shape))


def _refuse_unfit(model: Student, plan: GrowthPlan) -> None:
    if is_backbone(model):
        raise InputError(
            "Factors are learned for kdkeras' own students. Received: a "
            f"{type(model).__name__}. Use grow, with an operator that needs no training."
        )
    if plan.keeps_function:
        raise InputError(
            "Learned factors do not keep the function. Received: a plan that says so. "
            "Use GrowthPlan(..., keeps_function=False)."
        )
    if plan.vocabulary is not None:
        raise InputError(
            "Rows of new tokens are not learned as factors. Received: a plan with a vocabulary. "
            "Grow the vocabulary first, by a plan of its own."
        )
    if LAYERS in plan.sizes and not getattr(model, LAYERS, 0):
        raise InputError(
            "Layers are mixed from old ones. Received: a student without layers, and num_layers="
            f"{plan.sizes[LAYERS]}. Give it layers by `grow` first."
        )


class _Mixing:
    """The rows that put layers where `deepen` does, and what no mixture of old layers gives.

    The latter are the 1s of neutral norms in identity layers.
    """

    def __init__(self, axes: ModelAxes, layers: list[NewLayer], num_layers: int) -> None:
        chosen = np.eye(num_layers)[[layer.source or 0 for layer in layers]]
        self.rows = {name: chosen.copy() for name in axes.layer_weights}
        self.constants = {name: np.zeros(len(layers)) for name in axes.layer_weights}
        for number, layer in enumerate(layers):
            if layer.identity:
                self._make_identity(axes, number)

    def _make_identity(self, axes: ModelAxes, number: int) -> None:
        for name, rows in self.rows.items():
            if name.rpartition(".")[0] in axes.silenced:
                rows[number] = 0.0
        for norm in axes.inner_norms:
            self._make_neutral(norm, number)
        for part in ("gamma", "beta"):
            name = f"{axes.last_norm}.{part}"
            self.rows[name][number] = self.rows[name][number - 1]
            self.constants[name][number] = self.constants[name][number - 1]
        self._make_neutral(axes.last_norm, number - 1)

    def _make_neutral(self, norm: str, number: int) -> None:
        for part, value in (("gamma", 1.0), ("beta", 0.0)):
            self.rows[f"{norm}.{part}"][number] = 0.0
            self.constants[f"{norm}.{part}"][number] = value
