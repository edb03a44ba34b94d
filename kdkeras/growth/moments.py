"""Mapping Adam's moments of the small model to the grown one."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kdkeras.data import Vocabulary
from kdkeras.errors import InputError
from kdkeras.growth.axes import describe, variables
from kdkeras.growth.expand import FIRST_MOMENT, SECOND_MOMENT, deepen, widen
from kdkeras.growth.growing import new_layers
from kdkeras.growth.ligo_factors import LearnedOperators
from kdkeras.growth.plan import GrowthPlan
from kdkeras.growth.resolved_plan import ResolvedPlan
from kdkeras.students import StaticStudent, TransformerStudent

__all__ = ["grow_optimizer"]


def grow_optimizer(
    optimizer: keras.optimizers.Adam,
    model: Any,
    grown: Any,
    plan: GrowthPlan | LearnedOperators,
    vocabulary: Vocabulary | None = None,
) -> keras.optimizers.Adam:
    """Maps Adam's moments to a grown model, in the way that its gradients change.

    With `x' = x E` and `x = x' F` on each axis, a weight `W` with `y = x W` has the
    gradient `G = x^T dL/dy`, which becomes

    ```
    G' = (x E_in)^T (dL/dy F_out^T) = E_in^T G F_out^T
    ```

    when the weight becomes `W' = F_in W E_out`. The first moment, a mean of gradients, is
    mapped in the same way. The second moment, a mean of squares, is mapped with the
    squared coefficients `c_ij^2` of `G' = sum_ij c_ij G_ij`.

    - The result is exact for copies with equal shares and without noise, and for zero
      padding without random readers, because each new element then depends on one old
      element.
    - Unequal shares and noise change the gradient behind a layer norm or GELU, so the
      result is an approximation.
    - Where several elements are summed (random readers, noise), the second moment assumes
      that their gradients are uncorrelated.
    - The moments of new layers are 0.
    - With learned factors (LiGO), `E F` is not the identity and layers are mixed. The
      learned `E` and `F` replace the plan's, and the moments of a layer are those of the
      layer that the plan copies, so the result is an approximation.

    The step count is preserved, so that the bias correction is not repeated.

    Args:
        optimizer: The Adam (or `FusedAdam`, `LazyAdam`) that trained `model`.
        model: The small student or backbone.
        grown: The model that `grow` returned.
        plan: The plan that it grew by, or the `LearnedOperators`.
        vocabulary: The old vocabulary of a backbone, as for `grow`.

    Returns:
        An optimizer of the same class and settings, built for `grown`.

    Raises:
        InputError: If the optimizer is not Adam, has not trained `model` or uses
            `amsgrad`; if `grown` was not grown by the plan; if a static student became a
            Transformer, whose weights are not products of the old ones.
    """
    _refuse_unfit(optimizer, model, grown)
    axes = describe(model)
    learned = plan if isinstance(plan, LearnedOperators) else None
    plan = plan.plan if isinstance(plan, LearnedOperators) else plan
    resolved = ResolvedPlan.of(model, axes, plan, vocabulary)
    maps = learned.maps() if learned else resolved.maps
    layers, _ = new_layers(getattr(model, "num_layers", 0), plan)
    copy = type(optimizer).from_config(optimizer.get_config())
    copy.build(grown.trainable_variables)
    old, new = variables(model, axes), variables(grown, axes)
    for kind, name in ((FIRST_MOMENT, "_momentums"), (SECOND_MOMENT, "_velocities")):
        values = {path: _moment(optimizer, name, variable) for path, variable in old.items()}
        values = widen(values, axes, maps, resolved.from_above, kind)
        if axes.stacks:
            values = deepen(values, axes, layers, {}, kind)
        for path, variable in new.items():
            # A projection that growth added has no old moments.
            if path in values and variable.trainable:
                _check_shape(values[path], variable)
                target = getattr(copy, name)[copy._get_variable_index(variable)]
                target.assign(values[path].astype(target.dtype))
    copy.iterations.assign(optimizer.iterations)
    return copy


def _moment(optimizer: Any, name: str, variable: keras.Variable) -> np.ndarray:
    known = optimizer._trainable_variables_indices
    key = optimizer._var_key(variable)
    if key not in known:
        return np.zeros(variable.shape)
    return getattr(optimizer, name)[known[key]].value.numpy().astype(np.float64)


def _check_shape(value: np.ndarray, variable: Any) -> None:
    if value.shape != tuple(variable.shape):
        raise InputError(
            "`grown` must be the model that the plan makes. "
            f"Received: a weight of shape {tuple(variable.shape)}; the plan gives {value.shape}. "
            "Use the plan that `grow` was called with."
        )


def _refuse_unfit(optimizer: Any, model: Any, grown: Any) -> None:
    if not isinstance(optimizer, keras.optimizers.Adam) or optimizer.amsgrad:
        raise InputError(
            "`optimizer` must be Adam without amsgrad. "
            f"Received: {type(optimizer).__name__}. Create a new optimizer for the grown model."
        )
    known = getattr(optimizer, "_trainable_variables_indices", {})
    if not any(optimizer._var_key(v) in known for v in model.trainable_variables):
        raise InputError(
            "`optimizer` must have trained the small model. "
            f"Received: {optimizer.name}, built for none of its weights. "
            "Use the optimizer that the model was compiled with."
        )
    if isinstance(model, StaticStudent) and isinstance(grown, TransformerStudent):
        raise InputError(
            "The weights of `grown` must be products of the old ones. "
            "Received: a static student that became a TransformerStudent. "
            "Create a new optimizer for it."
        )
