"""Training that can be killed at any step, and goes on as if it had not been."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdkeras import replicas
from kdkeras.distillation.kept_variables import read_variables, write_variables
from kdkeras.errors import InputError
from kdkeras.files import atomic_write

__all__ = ["Backup", "FastForward", "endless_batches"]


# What `state.json` holds.
_STATE = {"step", "epoch", "batch", "variables", "means", "settings", "history"}


class Backup(keras.callbacks.Callback):
    """Keeps what an interrupted training needs to go on as if it had not stopped.

    Give it to `Distiller.fit(backup=...)`. Kept are weights, optimizer (with
    its schedule's step), random states, the epoch and the batch inside it, and
    the running means of the losses. Each time the weights are written first
    and then, in one atomic step, the file that names them: a kill at any
    moment leaves a whole backup. (`keras.callbacks.BackupAndRestore`
    overwrites its only file in place, and knows epochs only.) With several
    workers the chief writes and all read: the folder must be one for all.

    A finished training is not trained again: call `finish`, or delete the
    folder. What other callbacks remember (`EarlyStopping`'s patience, say) and
    metrics given to `compile` begin anew.

    Args:
        folder: Where it is kept; deleted by `finish`.
        every: Steps between two backups inside an epoch; None for one at the
            end of every epoch. A training that is told to stop inside an
            epoch is always kept at that step.
        settings: JSON-able settings; a resumed run must have the same.

    Attributes:
        state: What `state.json` holds.

    Raises:
        InputError: If `every` is below 1.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if every is not None and every < 1:
            raise InputError(
                f"`every` must be at least 1. Received: every={every}. Use 500, or None for "
                "one backup an epoch."
            )
        self.folder = Path(folder)
        self.every = every
        self.settings = json.loads(json.dumps(dict(settings or {})))
        self.state: dict[str, Any] = {"step": 0, "epoch": 0, "batch": 0, "history": []}
        self._logs: dict[str, float] = {}
        self._opened = False

    @property
    def step(self) -> int:
        """Steps that are done and kept."""
        return self.state["step"]

    def open(self, *, resume: bool = True, overwrite: bool = False) -> None:
        """Reads the backup, if there is one.

        Args:
            resume: Whether to go on from it.
            overwrite: Whether to begin anew where `resume` is false. The old
                backup is there until the first new one is written.

        Raises:
            InputError: If there is a backup that would be lost, or one of
                other settings.
        """
        self._opened = True
        if not self._state_file.is_file():
            return
        if not resume:
            if not overwrite:
                raise InputError(
                    f"There is a backup of an unfinished training. Received: {self.folder}. "
                    "Pass --resume to go on from it, or --overwrite to begin anew."
                )
            return
        state = self._read_state()
        self._refuse_other_settings(state)
        self.state = state

    def _read_state(self) -> dict[str, Any]:
        try:
            state = json.loads(self._state_file.read_bytes())
        except (OSError, ValueError):
            state = None
        if not isinstance(state, dict) or not state.keys() >= _STATE:
            raise InputError(
                f"A backup must be whole. Received: {self._state_file}, which does not say where "
                "the training stopped. Begin anew with --overwrite instead of --resume, or "
                "delete its folder."
            )
        return state

    def require(self, **settings: Any) -> None:
        """Adds JSON-able settings that a resumed run must have the same; opens, if need be.

        Raises:
            InputError: If the backup has others.
        """
        self.settings.update(json.loads(json.dumps(settings)))
        if not self._opened:
            self.open()
        elif self.step:
            self._refuse_other_settings(self.state)

    def _refuse_other_settings(self, state: Mapping[str, Any]) -> None:
        for name, value in self.settings.items():
            if state["settings"].get(name) != value:
                raise InputError(
                    f"A resumed training needs the settings it began with. Received: {name}="
                    f"{value}, before {name}={state['settings'].get(name)}. Give the same, or "
                    "begin anew with --overwrite instead of --resume."
                )

    def restore(self, model: keras.Model) -> None:
        """Puts the kept weights and optimizer into a compiled model; opens, if `open` was not."""
        if not self._opened:
            self.open()
        if not self.step:
            return
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_weights)
        read_variables(self.folder / self.state["variables"], model)

    def first_epoch(self) -> dict[str, int]:
        """Returns the argument of `fit` that says where to go on, if anything is done."""
        return {"initial_epoch": self.state["epoch"]} if self.step else {}

    @contextmanager
    def passing_over(self, model: keras.Model, steps_per_epoch: int) -> Iterator[None]:
        """While it lasts, the model's train function begins by reading what was trained on."""
        model.make_train_function()
        train_function = model.train_function
        model.train_function = FastForward(
            train_function,
            before=self.state["epoch"] * steps_per_epoch,
            inside=self.state["batch"],
            steps_per_execution=model.steps_per_execution,
            logs=model.get_metrics_result,
        )
        try:
            yield
        finally:
            model.train_function = train_function

    def finish(self, history: str | os.PathLike[str] | None = None) -> list[dict[str, Any]]:
        """Deletes the backup, when what was trained is saved elsewhere.

        Args:
            history: File to write the history to.

        Returns:
            One entry an epoch: the step it ended at, and its mean losses.
        """
        entries = self.state["history"]
        if self.state["batch"]:  # The last epoch was cut short on purpose.
            entries = [*entries, {"step": self.step, **self._logs}]
        if replicas.is_chief(self.model.distribute_strategy):
            if history is not None:
                _write(Path(history), entries)
            shutil.rmtree(self.folder)
        return entries

    # ---- while Keras trains -----------------------------------------------

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Goes on with the running means that the interrupted epoch had."""
        self._epoch, self._batch = epoch, 0
        if epoch == self.state["epoch"] and self.state["batch"]:
            for name, tracker in self.model.running_means().items():
                for variable, value in zip(
                    tracker.variables, self.state["means"].get(name, ()), strict=False
                ):
                    variable.assign(value)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the backup, if it is time."""
        before, self._batch = self._batch, batch + 1
        if self._is_done(self._epoch, self._batch):
            return
        if self.every and self._batch // self.every > before // self.every:
            self._keep(self._epoch, self._batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the backup: of the whole epoch, or of the step it was stopped at."""
        self._logs = {name: float(value) for name, value in (logs or {}).items()}
        if self.model.stop_training and self._batch < (self.params.get("steps") or np.inf):
            if not self._is_done(epoch, self._batch):
                self._keep(epoch, self._batch)
            return
        step = int(self.model.optimizer.iterations.numpy())
        history = [*self.state["history"], {"step": step, **self._logs}]
        self._keep(epoch + 1, 0, history)

    def _is_done(self, epoch: int, batch: int) -> bool:
        """Whether the backup already is at this batch: it was passed over, not trained."""
        return (epoch, batch) <= (self.state["epoch"], self.state["batch"])

    def _keep(self, epoch: int, batch: int, history: list[Any] | None = None) -> None:
        step = int(self.model.optimizer.iterations.numpy())
        # All workers take part in reading what is spread over them.
        means = {
            name: [float(np.asarray(v)) for v in tracker.variables]
            for name, tracker in self.model.running_means().items()
        }
        variables = f"{step}.safetensors"
        self.state = {
            "step": step,
            "epoch": epoch,
            "batch": batch,
            "variables": variables,
            "means": means,
            "settings": self.settings,
            "history": self.state["history"] if history is None else history,
        }
        if not replicas.is_chief(self.model.distribute_strategy):
            return
        write_variables(self.folder / variables, self.model)
        _write(self._state_file, self.state)
        for stale in set(self.folder.glob("*.safetensors")) - {self.folder / variables}:
            stale.unlink()

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.json"


class FastForward:
    """A train function whose first calls read batches without training on them.

    So the data, whatever its shuffling and prefetching, stands where it stood
    when the training was interrupted.

    Args:
        train_function: Keras' function of an iterator.
        before: Batches of the epochs before the interrupted one.
        inside: Batches of the interrupted epoch.
        steps_per_execution: Batches a call.
        logs: Gives the logs of a call that does not train.
    """

    def __init__(
        self,
        train_function: Callable[[Any], Any],
        before: int,
        inside: int,
        steps_per_execution: int,
        logs: Callable[[], dict[str, Any]],
    ) -> None:
        self.train_function = train_function
        self.before, self.inside = before, inside
        self.steps_per_execution = steps_per_execution
        self.logs = logs
        self._last: dict[str, Any] | None = None

    def __call__(self, iterator: Any) -> Any:
        """Reads on, or trains."""
        for _ in range(self.before):
            next(iterator)
        self.before = 0
        if not self.inside:
            return self.train_function(iterator)
        passed = min(self.steps_per_execution, self.inside)
        for _ in range(passed):
            next(iterator)
        self.inside -= passed
        if self._last is None:
            self._last = self.logs()
        return self._last


def endless_batches(batches: Any, steps_per_epoch: int | None) -> tuple[Any, int]:
    """Returns a dataset without end, and the number of its batches in an epoch.

    One iterator then gives all epochs, so that a position in it is a number.

    Args:
        batches: A `tf.data.Dataset`, or what a strategy made of one.
        steps_per_epoch: Batches in an epoch; the dataset's length if None.

    Raises:
        InputError: If it is no dataset, or its length is not known.
    """
    if not isinstance(batches, (tf.data.Dataset, tf.distribute.DistributedDataset)):
        raise InputError(
            f"A training with a backup or stages reads a tf.data.Dataset. Received: "
            f"{type(batches).__name__}. Write tf.data.Dataset.from_tensor_slices(...).batch(...)."
        )
    length = batches.cardinality  # A method, or a strategy's number.
    length = int(length() if callable(length) else length)
    if steps_per_epoch is None and length < 0:
        raise InputError(
            "A training with a backup or stages needs to know how long an epoch is. Received: a "
            "dataset of unknown length. Pass steps_per_epoch=."
        )
    if isinstance(batches, tf.data.Dataset) and length != tf.data.INFINITE_CARDINALITY:
        batches = batches.repeat()
    return batches, steps_per_epoch or length


def _write(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
