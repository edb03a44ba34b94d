"""Growth under masks: the operator, the schedule that fades new units in, and its end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import keras
import numpy as np
from scipy import sparse

from kdkeras.errors import InputError
from kdkeras.growth.axes import ModelAxes, Values, assign_values, model_values
from kdkeras.growth.axis_map import AxisMap
from kdkeras.growth.expand import widen
from kdkeras.growth.operators import WidthOperator
from kdkeras.growth.plan import GrowthPlan
from kdkeras.growth.resolved_plan import ResolvedPlan
from kdkeras.schedules import as_value, serialized, value_at
from kdkeras.students import MaskedTransformerStudent, TransformerStudent

__all__ = ["MaskSchedule", "MaskedGrowth", "fill_masked", "unmask"]


@dataclass(frozen=True, kw_only=True)
class MaskedGrowth(WidthOperator):
    """New units are faded in by a mask `m` that moves from 0 to 1 in training.

    Formula, with `c = 1` for an old unit and `c = m` for a new one:

    ```
    hidden_dim:       norm(x) = ((x - mean) / deviation * gamma + beta) * c,
                      mean = sum(c x) / sum(c),  variance = sum(c (x - mean)^2) / sum(c)
    intermediate_dim: gelu(...) * c
    num_heads:        queries, keys, values * c of their head
    head_size:        the same with c of their unit; scores divided by sqrt(sum(c)), not sqrt(d')
    ```

    New kernels and tables are random, with the standard deviation of the old weights of
    the same array; new biases and shifts are 0, new scales 1. Preserves the function at
    `m = 0` at any size, including `hidden_dim`, because the mask also applies to the
    statistics of the norms. At `m = 1` the student is a plain one (see `unmask`).

    `grow` returns a `MaskedTransformerStudent` with `m = 0`, and `MaskSchedule` moves the
    mask. The new weights are not a product of the old ones.

    References:
        Yao et al. (2023), 2x Faster Language Model Pre-training via Masked
        Structural Growth, arXiv:2305.02869.
    """

    masked: ClassVar[bool] = True

    def pair(self, kind: str, size: int, new_size: int, random: np.random.Generator) -> AxisMap:
        """Returns the map of the units that are not masked, `([I 0], [I; 0])`."""
        return AxisMap(
            expand=sparse.eye_array(size, new_size), contract=sparse.eye_array(new_size, size)
        )


def fill_masked(
    wide: Values, old: Values, axes: ModelAxes, resolved: ResolvedPlan, plan: GrowthPlan
) -> Values:
    """Initializes the weights of masked units.

    Args:
        wide: The widened weights, which are 0 for masked units.
        old: The weights that they were widened from.
        axes: The axes of the model.
        resolved: How each axis grows.
        plan: The plan, for its seed.
    """
    if not resolved.masked:
        return wide
    random = plan.random("masks")
    ones = {path: np.ones_like(array) for path, array in old.items()}
    unmasked = widen(ones, axes, _unmasked_maps(resolved))
    filled = {}
    for path, array in wide.items():
        if array.ndim == 1:
            start = np.full(array.shape, 1.0 if path.endswith(".gamma") else 0.0)
        else:
            start = random.normal(0.0, old[path].std(), array.shape)
        filled[path] = np.where(unmasked[path] == 1.0, array, start)
    return filled


def _unmasked_maps(resolved: ResolvedPlan) -> dict[tuple[str, str], AxisMap]:
    """Returns maps of ones to 1 for weights without a masked unit, and to 0 for others."""
    found = {}
    for key, pair in resolved.maps.items():
        if key[0] not in resolved.masked:
            # Every new unit of an unmasked axis is mapped to 1: it reads the first old one.
            first = np.zeros(pair.new_size, int), np.arange(pair.new_size)
            ones = sparse.csr_array((np.ones(pair.new_size), first), (pair.size, pair.new_size))
            pair = AxisMap(expand=ones, contract=ones.T, exact=False)
        found[key] = pair
    return found


@keras.saving.register_keras_serializable(package="kdkeras")
class MaskSchedule(keras.callbacks.Callback):
    """Moves the mask of a masked student with the steps of the optimizer.

    Before each batch and at the end of an epoch, the mask is set to the value of the
    schedule at the number of completed updates, clipped to [0, 1]. Resumed training
    continues at the right mask, because the optimizer's step count is in its checkpoint.
    With `steps_per_execution`, the mask moves once per execution.

    Args:
        schedule: A float or a schedule (see `kdkeras.schedules`), e.g.
            `LinearWarmup(target=1.0, steps=2_000)`.

    Raises:
        InputError: At the start of training, if the student is not masked.
    """

    def __init__(self, schedule: Any) -> None:
        super().__init__()
        self.schedule = as_value(schedule)

    def on_train_begin(self, logs: Any = None) -> None:
        """Checks the student and sets its mask."""
        if not isinstance(self._student(), MaskedTransformerStudent):
            raise InputError(
                "MaskSchedule requires a MaskedTransformerStudent. Received: "
                f"{type(self._student()).__name__}. Grow it with MaskedGrowth() or MaskedLayers()."
            )
        self._move()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Sets the mask for the batch."""
        self._move()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Sets the mask that belongs to the completed updates, so that it is saved."""
        self._move()

    def _student(self) -> Any:
        return getattr(self.model, "student", self.model)

    def _move(self) -> None:
        level = float(value_at(self.schedule, self.model.optimizer.iterations.value))
        self._student().mask = min(max(level, 0.0), 1.0)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {"schedule": serialized(self.schedule)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> MaskSchedule:
        """Creates the callback that `get_config` described."""
        return cls(**config)


def unmask(student: MaskedTransformerStudent) -> TransformerStudent:
    """Converts a masked student whose mask is 1 to a plain student.

    Args:
        student: A student that `grow` made with `MaskedGrowth` or `MaskedLayers`, trained
            until its `mask` is 1. It is not modified.

    Returns:
        A new `TransformerStudent` with the same weights and function.

    Raises:
        InputError: If the student is not masked, or its mask is not 1.
    """
    if not isinstance(student, MaskedTransformerStudent):
        raise InputError(
            f"`student` must be a MaskedTransformerStudent. Received: {type(student).__name__}. "
            "Use the student unchanged."
        )
    if student.mask != 1.0:
        raise InputError(
            f"The mask of `student` must be 1. Received: a mask at {student.mask:g}. "
            "Continue training with MaskSchedule until its schedule reaches 1."
        )
    config = student.get_config()
    for name in ("masked", "masked_layers"):
        del config[name]
    plain = TransformerStudent(**config, vocabulary=student.vocabulary)
    assign_values(plain, model_values(student))
    return plain
