"""The trainable factors of a model's growth: LiGO."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kdkeras.errors import InputError
from kdkeras.growth.axes import (
    LAYERS,
    MAIN,
    ModelAxes,
    Pieces,
    Side,
    Values,
    assign_values,
    describe,
    is_backbone,
)
from kdkeras.growth.axis_map import AxisMap
from kdkeras.growth.comparison import certify_growth, growth_probe
from kdkeras.growth.expand import merged_shape
from kdkeras.growth.growing import new_layers
from kdkeras.growth.larger import (
    larger_static,
    larger_transformer,
    old_values,
    refuse_unfinished,
)
from kdkeras.growth.operators import NewLayer
from kdkeras.growth.plan import GrowthPlan
from kdkeras.growth.resolved_plan import ResolvedPlan, check_names
from kdkeras.students import StaticStudent, Student
from kdkeras.students.certificate import Step
from kdkeras.students.comparison import with_certificate

__all__ = ["LearnedOperators"]

Factor = tuple[str, str, bool]
"""Axis, role, and whether the axis is read."""


class LearnedOperators:
    """The trainable factors of one model's growth.

    Created and trained by `learn_operators`.

    Formula, for a weight `W_l` of layer `l`, with the factors `E` of the axis that it
    writes and `F` of the axis that it reads:

    ```
    W'_l = sum_k M[l, k] F W_k E,     b'_l = sum_k M[l, k] b_k E
    ```

    All layers and all weights that use an axis share its `E` and `F`. Queries, keys and
    values each have their own `E` for heads and for the head size. `M` is not shared:
    each kind of weight has its own. Scales and shifts of norms are treated as biases. The
    factors start at the plan's operators; `E F = I` holds at the start only.

    In the paper, `E` of the heads is one matrix over all their units, and `F` is the
    transpose of `E`. Here `E` is the Kronecker product of one matrix for the heads and
    one for the units of a head, and `F` is a separate factor.

    Args:
        model: The student that grows. It is not modified.
        plan: The new sizes and the initial operators, with `keeps_function=False`.

    Attributes:
        losses: The loss of each training step.

    Raises:
        InputError: If the plan does not fit the model, has `keeps_function=True`, adds
            tokens, or does not enlarge the model.

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
        self._resolved = ResolvedPlan.of(model, axes, plan)
        if self._resolved.from_above or self._resolved.masked:
            raise InputError(
                "The initial operators of learned factors must be products. Received: an operator "
                "that copies units from the layer above, or masks them. Use Net2Wider()."
            )
        self._target, self._old = self._new_student()
        self._dtype = model.variable_dtype
        # Created here, because inside a graph they would become constants of the graph.
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
                "The plan must contain something to learn. Received: a plan without a larger size. "
                "Use e.g. GrowthPlan(sizes={'hidden_dim': 512}, keeps_function=False)."
            )

    @property
    def target(self) -> Student:
        """A student of the new sizes; `values` returns the weights that belong to it."""
        return self._target

    @property
    def plan(self) -> GrowthPlan:
        """The plan, whose operators are the initial factors."""
        return self._plan

    def maps(self) -> dict[tuple[str, str], AxisMap]:
        """Returns the map of each axis and role, with the learned `E` and `F`.

        `E F` is in general not the identity. Queries and keys have no learned `F`.
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
            for (axis, role), pair in self._resolved.maps.items()
        }

    @property
    def trainable_variables(self) -> list[keras.Variable]:
        """All factors."""
        return [*self._factors.values(), *self._mixing.values()]

    def factors(self) -> dict[str, np.ndarray]:
        """Returns the factors by name: `hidden_dim.E`, `num_heads.query.E`, `hidden_dim.F`."""
        found = {}
        for (axis, role, reads), variable in self._factors.items():
            name = ".".join([axis, *([role] if role != MAIN else []), "F" if reads else "E"])
            found[name] = variable.value.numpy()
        return found

    def mixing(self) -> dict[str, np.ndarray]:
        """Returns `M`, `(new layers, old layers)`, by kind of weight (`qkv_dense.kernel`)."""
        return {name: variable.value.numpy() for name, variable in self._mixing.items()}

    def values(self, dtype: str | None = None) -> dict[str, Any]:
        """Computes the weights of the larger student by path, tensors of `dtype`."""
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
        """Returns the larger student, with plain weights.

        Args:
            probe: As for `kdkeras.growth.grow`.

        Returns:
            A new student, whose `certificate` describes how it differs from the old one.
        """
        inputs = growth_probe(self._model, probe)
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
            for step in (*self._resolved.steps, *self._depth_steps)
        )
        models = self._model, grown
        certificate = certify_growth(models, self._plan, self._resolved, steps, inputs, probe)
        return with_certificate(grown, certificate)

    def _as_stacks(self, dtype: str) -> dict[str, Any]:
        """Returns the old weights by path, `(1, ...)`; those of layers by kind, `(layers, ...)`."""
        axes = self._axes
        stacks = {path: a[None] for path, a in self._old.items() if path in axes.weights}
        for name in axes.layer_weights:
            paths = [path for path in self._old if path.endswith(f".{name}")]
            stacks[name] = np.stack([self._old[path] for path in paths])
        return {key: ops.convert_to_tensor(a, dtype=dtype) for key, a in stacks.items()}

    def _new_student(self) -> tuple[Student, Values]:
        old = old_values(self._model)
        if isinstance(self._model, StaticStudent):
            return larger_static(self._model, self._plan, self._resolved), old
        return larger_transformer(self._model, self._plan, self._resolved, old)  # type: ignore[arg-type]

    def _start_factors(self) -> dict[Factor, keras.Variable]:
        every = [*self._axes.weights.values(), *self._axes.layer_weights.values()]
        sides = [side for pieces in every for piece in pieces for side in piece if side]
        found: dict[Factor, keras.Variable] = {}
        for side in sides:
            pair = self._resolved.maps[side.axis, side.role]
            key = (side.axis, side.role, side.reads)
            if pair.size != pair.new_size and key not in found:
                matrix = pair.contract if side.reads else pair.expand
                found[key] = self._variable(matrix.toarray())
        return found

    def _variable(self, start: np.ndarray) -> keras.Variable:
        return keras.Variable(start, dtype=self._dtype)

    def _wide(self, stack: Any, pieces: Pieces) -> Any:
        """Returns weights of one kind, `(layers, ...)`, on their larger axes."""
        parts = ops.split(stack, len(pieces), axis=-1)
        wide = [self._wide_piece(part, piece) for part, piece in zip(parts, pieces, strict=True)]
        return ops.concatenate(wide, axis=-1)

    def _wide_piece(self, stack: Any, piece: tuple[Side | None, ...]) -> Any:
        sizes = [self._resolved.maps[s.axis, s.role].size if s else -1 for s in piece]
        wide = ops.reshape(stack, (stack.shape[0], *sizes))
        for dimension, side in enumerate(piece, start=1):
            factor = self._factors.get((side.axis, side.role, side.reads)) if side else None
            if side is not None and factor is not None:
                matrix = ops.cast(factor.value, stack.dtype)
                # F is (new, old), E is (old, new).
                wide = ops.tensordot(wide, matrix, axes=[[dimension], [1 if side.reads else 0]])
                wide = ops.moveaxis(wide, -1, dimension)
        shape = merged_shape(len(stack.shape) - 1, piece, tuple(wide.shape[1:]))
        return ops.reshape(wide, (stack.shape[0], *shape))


def _refuse_unfit(model: Student, plan: GrowthPlan) -> None:
    if is_backbone(model):
        raise InputError(
            "Learned factors are only supported for kdkeras students. Received: a "
            f"{type(model).__name__}. Use grow, with an operator that requires no training."
        )
    if plan.keeps_function:
        raise InputError(
            "Learned factors do not preserve the function. Received: a plan with "
            "keeps_function=True. Use GrowthPlan(..., keeps_function=False)."
        )
    if plan.vocabulary is not None:
        raise InputError(
            "The rows of new tokens cannot be learned as factors. Received: a plan with a "
            "vocabulary. Grow the vocabulary first, with a separate plan."
        )
    if LAYERS in plan.sizes and not getattr(model, LAYERS, 0):
        raise InputError(
            "New layers are mixtures of old layers. Received: a student without layers, and "
            f"num_layers={plan.sizes[LAYERS]}. Add the first layers with `grow`."
        )


class _Mixing:
    """The initial mixing matrices, which place layers as `deepen` does.

    Attributes:
        rows: The initial `M` of each kind of weight.
        constants: By kind of weight, a constant per layer that is added to the mixture:
            1 for the scales of the neutral norms of identity layers, else 0.
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
