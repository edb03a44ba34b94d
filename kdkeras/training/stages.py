"""Training in stages: which losses are used, which layers are frozen, and the learning rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

from kdkeras.distillation import Distiller
from kdkeras.distillation.keras_hooks import RunCallback
from kdkeras.distillation.terms import TASK, given_weights
from kdkeras.distillation.update import inner
from kdkeras.errors import InputError
from kdkeras.schedules import Delayed, Piecewise, as_value, is_schedule, sampled, serialized
from kdkeras.training.backup import Backup, endless_batches

__all__ = ["Stage", "Stages"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of a training.

    Schedules given here count the steps of the stage; those of the Distiller,
    its losses and its optimizer count the steps of the whole training.

    Args:
        steps: Number of updates, at least 1.
        loss_weights: Weights of the losses that are used, by name; other losses
            are not computed. None uses the weights of the Distiller.
        frozen: Names of layers of the student, at any depth, that are not
            trained; their moments in the optimizer do not change either.
        learning_rate: A float or a schedule. None uses that of `compile`.

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
                "A stage's `steps` must be an integer of at least 1. "
                f"Received: steps={self.steps}. Omit a stage that does nothing."
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
        """Returns the arguments, JSON-serializable."""
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


class Stages(RunCallback):
    """Trains a Distiller in stages, and stops after the last stage.

    Pass it to `Distiller.fit` like any callback, without `epochs`. The stage is
    a function of the optimizer's step alone: a run that is resumed, from a
    `Backup` or as a loaded Distiller, continues in the right stage, and a
    finished one is not repeated. One `fit` runs through all stages, with one
    stream of batches and one optimizer:

    - Learning rates become one schedule of the step, which the optimizer keeps.
    - A frozen layer has `trainable = False` during its stage: its gradient is not
      computed and its moments do not change. (A gradient that is masked would
      let moments decay, and momentum change the weights.)
    - A loss that is not used is not computed; its own weights (a projection) are
      frozen.
    - The step is traced again for each stage.

    In an epoch that spans two stages each term is averaged over the steps that
    compute it. Afterwards the loss weights and the `trainable` flags are
    restored. Steps that float16 skips because of an overflow do not count.

    Args:
        stages: The stages, in order.

    Raises:
        InputError: If there is no stage; in `fit`, for an unknown name of a loss
            or layer, a stage without a loss or with everything frozen, a stage
            that ends within an execution of several steps, an unsupported
            optimizer, a `Backup` with other stages, `epochs`, or `x` that is
            not a dataset, or of unknown length without `steps_per_epoch`.

    Example:
        >>> stages = [Stage(steps=500, loss_weights={"embedding": 1.0}), Stage(steps=2_000)]
        >>> distiller.fit(batches, callbacks=[Stages(stages)])  # doctest: +SKIP
    """

    def __init__(self, stages: Sequence[Stage]) -> None:
        super().__init__()
        self.stages = list(stages)
        if not self.stages:
            raise InputError(
                "A training in stages needs at least one stage. Received: stages=[]. "
                "Pass [Stage(steps=...)]."
            )
        self.ends = list(accumulate(int(stage.steps) for stage in self.stages))

    @contextmanager
    def run(self, distiller: Distiller, arguments: dict[str, Any]) -> Iterator[None]:
        """Checks the stages, sets the number of epochs, and restores the Distiller afterwards."""
        self.distiller = distiller
        self._check()
        batches, steps_per_epoch = endless_batches(arguments["x"], arguments["steps_per_epoch"])
        epochs = self._epochs(arguments, steps_per_epoch)
        arguments.update(x=batches, steps_per_epoch=steps_per_epoch, epochs=epochs)
        self._flags = _flags(distiller)
        self._join_learning_rates()
        self._retrace()
        self._entered = -1
        try:
            yield
        finally:
            self._thaw()
            distiller.active_weights = distiller.term_weights
            self._retrace()

    def _check(self) -> None:
        starts = [0, *self.ends[:-1]]
        self.weights = [self._weights(*both) for both in zip(self.stages, starts, strict=True)]
        self._refuse_unfit_optimizer()
        self._refuse_unfit_ends()
        self._flags = _flags(self.distiller)
        for stage, weights in zip(self.stages, self.weights, strict=True):
            self._freeze(stage, weights)
            trained = self.distiller.trainable_weights
            self._thaw()
            if not trained:
                raise InputError(
                    "A stage must train something. Received: "
                    f"frozen={list(stage.frozen)}. Freeze fewer layers."
                )

    def _epochs(self, arguments: Mapping[str, Any], steps_per_epoch: int) -> int:
        """Returns the epochs until the last stage ends, 0 if it has ended."""
        if arguments["epochs"] != 1:
            raise InputError(
                "The stages set the length of the training. Received: "
                f"epochs={arguments['epochs']}. Omit it; use Stage(steps=...)."
            )
        left = self.ends[-1] - self._step()
        for backup in arguments["callbacks"]:
            if isinstance(backup, Backup):
                backup.require(stages=[stage.get_config() for stage in self.stages])
                if backup.step:
                    # From the first batch on, as the backup counts epochs.
                    left = self.ends[-1] if backup.step < self.ends[-1] else 0
        return -(-max(left, 0) // steps_per_epoch)

    # ---- during fit -------------------------------------------------------

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Enters the stage of the step, which a backup may have restored."""
        self._enter()

    def _step(self) -> int:
        return int(self.distiller.optimizer.iterations.numpy())

    @property
    def current(self) -> int:
        """Index of the stage of the optimizer's step."""
        step = self._step()
        return min(sum(step >= end for end in self.ends), len(self.stages) - 1)

    def _enter(self) -> None:
        """Puts the Distiller into the stage of its step, and has its step traced again."""
        self._entered = self.current
        self._thaw()
        self.distiller.active_weights = self.weights[self._entered]
        self._freeze(self.stages[self._entered], self.weights[self._entered])
        self.distiller.test_function = None
        self.distiller.make_train_function(force=True)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Enters the next stage, after the validation of the epoch that ended the last one."""
        if self.current != self._entered:
            self._enter()

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
        """Weights of the losses that a stage uses, as functions of the training's step."""
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
                "Stages count updates, which Keras does not when it accumulates gradients. "
                f"Received: gradient_accumulation_steps={optimizer.gradient_accumulation_steps}. "
                "Use Distiller(micro_batches=...)."
            )
        if optimizer.use_ema and any(stage.frozen or stage.loss_weights for stage in self.stages):
            raise InputError(
                "Moving averages of weights also change in frozen layers. Received: use_ema=True. "
                "Omit it, or freeze nothing."
            )

    def _refuse_unfit_ends(self) -> None:
        together = self.distiller.steps_per_execution
        for end in self.ends:
            if end % together:
                raise InputError(
                    "A stage must end at the end of an execution. Received: a stage that ends at "
                    f"step {end}, steps_per_execution={together}. Use multiples of {together}."
                )


def _flags(distiller: Distiller) -> list[tuple[Any, bool]]:
    """Every `trainable` flag, in the order in which setting them restores all of them."""
    # Setting a layer's flag sets those of all layers inside it: they come after it.
    holders = [*distiller._flatten_layers(include_self=False), *distiller.variables]
    return [(holder, holder.trainable) for holder in holders]
