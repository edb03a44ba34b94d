"""What Adam knows about the small model, carried over to the large one."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kdkeras.data import Vocabulary
from kdkeras.errors import InputError
from kdkeras.growth.described import describe, variables
from kdkeras.growth.expand import FIRST_MOMENT, SECOND_MOMENT, deepen, widen
from kdkeras.growth.growing import new_layers
from kdkeras.growth.ligo import LearnedOperators
from kdkeras.growth.maps import Width
from kdkeras.growth.plan import GrowthPlan
from kdkeras.students import StaticStudent, TransformerStudent

__all__ = ["grow_optimizer"]


def grow_optimizer(
    optimizer: keras.optimizers.Adam,
    model: Any,
    grown: Any,
    plan: GrowthPlan | LearnedOperators,
    vocabulary: Vocabulary | None = None,
) -> keras.optimizers.Adam:
    """Maps Adam's moments as growth maps gradients.

    With `x' = x E` and `x = x' F` on each axis, a weight `W` between a read and
    a written axis has `y = x W`, and its gradient `G = x^T dL/dy` becomes

    ```
    G' = (x E_in)^T (dL/dy F_out^T) = E_in^T G F_out^T
    ```

    the contragredient of `W' = F_in W E_out`. The first moment, a mean of
    gradients, is mapped so. The second is a mean of squares: `G'` being
    `sum_ij c_ij G_ij`, it is mapped with `c_ij^2`. What holds:

    - exact for copies with equal shares and no noise, on every axis, and for
      zero padding without random readers; both moments, since each new number
      comes from one old one;
    - behind a layer norm or GELU, unequal shares and noise change the gradient
      by as much as they differ from equal shares: an approximation;
    - where several numbers add up (random readers, noise), the second moment
      takes their gradients as uncorrelated;
    - new layers start with moments of 0, as fresh weights do;
    - of learned factors (LiGO) `E F` is no identity, and layers are mixed: the
      learned `E` and `F` take the place of the plan's, the layers' moments are
      those of the layers that the plan starts at. An approximation.

    The count of steps stays, so that the bias correction is not done again.

    Args:
        optimizer: Adam (or `FusedAdam`, `LazyAdam`) that trained `model`.
        model: The small student or backbone.
        grown: What `grow` made of it.
        plan: By which plan, or the `LearnedOperators` that made it.
        vocabulary: The old vocabulary of a backbone, as for `grow`.

    Returns:
        An optimizer of the same kind and settings, built for `grown`.

    Raises:
        InputError: If the optimizer is not Adam, has not trained `model`, uses
            `amsgrad`, or `grown` is another model than the plan makes; if a
            static student became a Transformer, whose weights are no products.
    """
    _refuse_unfit(optimizer, model, grown)
    axes = describe(model)
    learned = plan if isinstance(plan, LearnedOperators) else None
    plan = plan.plan if isinstance(plan, LearnedOperators) else plan
    width = Width.of(model, axes, plan, vocabulary)
    maps = learned.maps() if learned else width.maps
    layers, _ = new_layers(getattr(model, "num_layers", 0), plan)
    copy = type(optimizer).from_config(optimizer.get_config())
    copy.build(grown.trainable_variables)
    old, new = variables(model, axes), variables(grown, axes)
    for kind, name in ((FIRST_MOMENT, "_momentums"), (SECOND_MOMENT, "_velocities")):
        values = {path: _moment(optimizer, name, variable) for path, variable in old.items()}
        values = widen(values, axes, maps, width.from_above, kind)
        if axes.stacks:
            values = deepen(values, axes, layers, {}, kind)
        for path, variable in new.items():
            # A projection that growth has added has no past.
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
            "The grown model must be what the plan makes. "
            f"Received: a weight of {tuple(variable.shape)} where the plan has {value.shape}. "
            "Give the plan that `grow` was called with."
        )


def _refuse_unfit(optimizer: Any, model: Any, grown: Any) -> None:
    if not isinstance(optimizer, keras.optimizers.Adam) or optimizer.amsgrad:
        raise InputError(
            "Moments are mapped for Adam without amsgrad. "
            f"Received: {type(optimizer).__name__}. Start a new optimizer for the grown model."
        )
    known = getattr(optimizer, "_trainable_variables_indices", {})
    if not any(optimizer._var_key(v) in known for v in model.trainable_variables):
        raise InputError(
            "The optimizer must have trained the small model. "
            f"Received: {optimizer.name}, built for none of its weights. "
            "Give the optimizer that the model was compiled with."
        )
    if isinstance(model, StaticStudent) and isinstance(grown, TransformerStudent):
        raise InputError(
            "A table under layers is no product of the old one. "
            "Received: a static student that became a TransformerStudent. "
            "Start a new optimizer for it."
        )
