"""A training in stages: which losses count, what is frozen, and how fast it learns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import keras

from kdkeras.distillation.backup import Backup
from kdkeras.distillation.update import inner
from kdkeras.distillation.weights import TASK, given_weights
from kdkeras.errors import InputError
from kdkeras.schedules import Delayed, Piecewise, as_value, is_schedule, sampled, serialized

if TYPE_CHECKING:
    from kdkeras.distillation.distiller import Distiller

__all__ = ["Stage", "StagedTraining"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One part of a training.

    Schedules that are given here count the stage's own steps; those of the
    Distiller, its losses and its optimizer count on through all stages.

    Args:
        steps: Updates that it takes, at least 1.
        loss_weights: Weights of the losses that count, by name; a loss that is
            left out is not computed. None: those of the Distiller.
        frozen: Names of layers of the student, at any depth, that do not
            learn; their moments in the optimizer stay as they are, too.
        learning_rate: A float or a schedule. None: that of `compile`.

    Raises:
        InputError: If `steps` is below 1, or a learning rate is or becomes
            negative.
    """

    steps: int
    loss_weights: Mapping[str, Any] | None = None
    frozen: Sequence[str] = ()
    learning_rate: Any = None

    def __post_init__(self) -> None:
        if int(self.steps) != self.steps or self.steps < 1:
            raise InputError(
                "A stage's `steps` must be a whole number of at least 1. "
                f"Received: steps={self.steps}. Leave out a stage that does nothing."
            )
        if isinstance(self.frozen, str):
            raise InputError(
                "`frozen` must be a list of layer names. "
                f"Received: frozen={self.frozen!r}. Write frozen=[{self.frozen!r}]."
            )
        if self.learning_rate is not None:
            rate = as_value(self.learning_rate)
            for _, value in sampled(rate) if is_schedule(rate) else [(0, rate)]:
                if not value >= 0:
                    raise InputError(
                        "A learning rate must be 0 or more. "
                        f"Received: learning_rate={value:g}. Use 1e-3 if in doubt."
                    )
            object.__setattr__(self, "learning_rate", rate)

    def get_config(self) -> dict[str, Any]:
        """Returns the arguments, JSON-able."""
        weights = self.loss_weights
        return {
            "steps": int(self.steps),
            "loss_weights": weights and {k: serialized(as_value(v)) for k, v in weights.items()},
            "frozen": list(self.frozen),
            "learning_rate": serialized(self.learning_rate),
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Stage:
        """Creates a stage from `get_config()`."""
        return cls(**config)


class StagedTraining(keras.callbacks.Callback):
    """Puts a Distiller into the stage of its step, and stops after the last stage.

    `Distiller.fit_stages` makes it. The stage is a function of the optimizer's
    step alone, so that whatever keeps the step keeps the stage. One `fit` runs
    through all stages, over one stream of batches and with one optimizer:

    - Learning rates become one schedule of the step, which the optimizer keeps.
    - A frozen layer is `trainable = False` for its stage: its gradient is not
      computed and its moments do not move. (A gradient that is masked would
      let moments fade, and momentum move the weights.)
    - A loss that does not count is not computed; what is trained in it (a
      projection) is frozen.
    - The step is traced anew for each stage.

    An epoch that spans two stages averages each term over the steps that have
    it. Afterwards the weights of the losses and the `trainable` flags are as before.
    The steps that float16 leaves out for an overflow are no steps.

    Args:
        distiller: A compiled Distiller.
        stages: The stages, in their order.

    Raises:
        InputError: For an unknown name of a loss or layer, a stage without a
            loss or with all frozen, a stage that ends inside an execution of
            several steps, or an optimizer that cannot do it.
    """

    def __init__(self, distiller: Distiller, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.distiller, self.stages = distiller, list(stages)
        if not self.stages:
            raise InputError(
                "A training in stages needs one at least. Received: stages=[]. "
                "Pass [Stage(steps=...)]."
            )
        self.ends = list(accumulate(int(stage.steps) for stage in self.stages))
        starts = [0, *self.ends[:-1]]
        self.weights = [self._weights(*both) for both in zip(self.stages, starts, strict=True)]
        self._refuse_unfit_optimizer()
        self._refuse_unfit_ends()
        self._flags = _flags(distiller)
        for stage, weights in zip(self.stages, self.weights, strict=True):
            self._freeze(stage, weights)
            trained = distiller.trainable_weights
            self._thaw()
            if not trained:
                raise InputError(
                    "A stage must leave something to train. Received: "
                    f"frozen={list(stage.frozen)}. Freeze fewer layers."
                )

    def open(self, backup: Backup | None, steps_per_epoch: int, named: Mapping[str, Any]) -> int:
        """Returns the epochs until the last stage ends, 0 if it has.

        Raises:
            InputError: If the backup has other stages, or epochs are given.
        """
        if "epochs" in named:
            raise InputError(
                "The stages say how long a training is. Received: "
                f"epochs={named['epochs']}. Give Stage(steps=...) alone."
            )
        left = self.ends[-1] - self._step()
        if backup is not None:
            backup.require(stages=[stage.get_config() for stage in self.stages])
            if backup.step:
                # Counted from the first batch, as the backup counts epochs.
                left = self.ends[-1] if backup.step < self.ends[-1] else 0
        return -(-max(left, 0) // steps_per_epoch)

    # ---- while it trains --------------------------------------------------

    def __enter__(self) -> StagedTraining:
        self._flags = _flags(self.distiller)
        self._join_learning_rates()
        self._retrace()
        object.__setattr__(self.distiller, "_stages", self)
        return self

    def __exit__(self, *error: object) -> None:
        object.__setattr__(self.distiller, "_stages", None)
        self._thaw()
        self.distiller.active_weights = self.distiller.term_weights
        self._retrace()

    def _step(self) -> int:
        return int(self.distiller.optimizer.iterations.numpy())

    @property
    def current(self) -> int:
        """Index of the stage of the optimizer's step."""
        step = self._step()
        return min(sum(step >= end for end in self.ends), len(self.stages) - 1)

    def enter(self) -> None:
        """Puts the Distiller into the stage of its step, before its step is traced."""
        self._entered = self.current
        self._thaw()
        self.distiller.active_weights = self.weights[self._entered]
        self._freeze(self.stages[self._entered], self.weights[self._entered])

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Goes on to the next stage, after what ended the last one was validated."""
        if self.current != self._entered:
            self.distiller.test_function = None
            self.distiller.make_train_function(force=True)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops after the last stage."""
        if self._step() >= self.ends[-1]:
            self.distiller.stop_training = True

    def _retrace(self) -> None:
        self.distiller.train_function = self.distiller.test_function = None

    def _freeze(self, stage: Stage, weights: Mapping[str, Any]) -> None:
        layers = self.distiller.student._flatten_layers(include_self=False)
        names = sorted({layer.name for layer in layers if layer.weights})
        for name in stage.frozen:
            if name not in names:
                raise InputError(
                    "`frozen` must name layers of the student that have weights. "
                    f"Received: {name!r}. The layers are {names}."
                )
        losses = {**self.distiller.distillation_losses, **self.distiller.alignment_losses}
        unused = [loss for name, loss in losses.items() if name not in weights]
        for layer in [*(x for x in layers if x.name in stage.frozen), *unused]:
            layer.trainable = False
        if self.distiller.balancing is not None:
            for name in self.distiller.term_weights:
                for variable in self.distiller.balancing.trained(name):
                    variable.trainable = variable.trainable and name in weights

    def _thaw(self) -> None:
        for holder, trainable in self._flags:
            holder.trainable = trainable

    def _weights(self, stage: Stage, start: int) -> dict[str, Any]:
        """What counts in a stage, as functions of the training's step."""
        known = self.distiller.term_weights
        if stage.loss_weights is None:
            return dict(known)
        weights = given_weights(list(known), stage.loss_weights)
        if not set(weights) - ({TASK} if self.distiller._compile_loss is None else set()):
            raise InputError(
                f"A stage needs a loss. Received: loss_weights={dict(stage.loss_weights)}. "
                f"The losses are {list(known)}."
            )
        return {k: Delayed(v, start) if is_schedule(v) else v for k, v in weights.items()}

    def _join_learning_rates(self) -> None:
        rates = [stage.learning_rate for stage in self.stages]
        if all(rate is None for rate in rates):
            return
        optimizer = inner(self.distiller.optimizer)
        compiled = as_value(optimizer.get_config()["learning_rate"])
        starts = [0, *self.ends[:-1]]
        pieces = [
            compiled if rate is None else Delayed(rate, start)
            for rate, start in zip(rates, starts, strict=True)
        ]
        optimizer.learning_rate = Piecewise(starts[1:], pieces)

    def _refuse_unfit_optimizer(self) -> None:
        optimizer = inner(self.distiller.optimizer)
        if optimizer.gradient_accumulation_steps:
            raise InputError(
                "Keras counts steps in two ways where it accumulates gradients. Received: "
                f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps}. "
                "Use Distiller(micro_batches=...)."
            )
        if optimizer.use_ema and any(stage.frozen or stage.loss_weights for stage in self.stages):
            raise InputError(
                "Moving averages of weights go on in frozen layers, too. Received: use_ema=True. "
                "Leave it out, or freeze nothing."
            )

    def _refuse_unfit_ends(self) -> None:
        together = self.distiller.steps_per_execution
        for end in self.ends:
            if end % together:
                raise InputError(
                    "A stage must end where an execution ends. Received: a stage that ends at "
                    f"step {end}, steps_per_execution={together}. Use multiples of {together}."
                )


def _flags(distiller: Distiller) -> list[tuple[Any, bool]]:
    """Every `trainable`, in the order in which setting them gives the same again."""
    # A layer's flag is set for all inside it: these and the variables come after it.
    holders = [*distiller._flatten_layers(include_self=False), *distiller.variables]
    return [(holder, holder.trainable) for holder in holders]
