"""Backups of a training, which can be interrupted at any step and resumed exactly."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from safetensors import SafetensorError
from safetensors.numpy import load, save

from kdkeras import replicas
from kdkeras.distillation.keras_hooks import RunCallback
from kdkeras.errors import InputError
from kdkeras.files import atomic_write

__all__ = ["Backup", "endless_batches", "read_variables", "write_variables"]


_STATE = {
    *("step", "epoch", "batch", "variables", "sha256"),
    *("means", "logged", "settings", "history"),
}
"""Keys of `state.json`, besides its own checksum."""
_VARIABLES = re.compile(r"\d+\.safetensors")
"""Names of the files that hold the variables of a step; no other file is ever deleted."""


class Backup(RunCallback):
    """Saves everything that an interrupted training needs to continue exactly.

    Pass it to `fit` like any callback. When the same script runs again, training
    continues at the batch at which it stopped. `x` must be a `tf.data.Dataset`
    that yields the same batches again; all epochs are read from one iterator.

    The backup holds the weights, the optimizer with its schedule's step, random
    states, the epoch, the batch inside it, and the running means of the losses.
    The weights are written first; then one atomic step writes the file that
    names them, so a kill at any moment leaves a complete backup.
    (`keras.callbacks.BackupAndRestore` overwrites its only file in place and
    resumes at epochs only.) With several workers the chief writes and all
    workers read: they must share the folder.

    A finished training is not repeated: call `finish`, or delete the folder.
    The state of other callbacks (such as the patience of `EarlyStopping`) and of
    metrics given to `compile` is not kept.

    Args:
        folder: Folder of the backup: new, empty, or with a backup. Only files that
            the backup wrote are ever deleted.
        every: Steps between two backups within an epoch; None for one backup
            at the end of each epoch. When training is stopped within an
            epoch, that step is always saved.
        settings: JSON-serializable settings; a resumed run must have the same.

    Attributes:
        state: Content of `state.json`.

    Raises:
        InputError: If `every` is below 1; in `fit`, if `x` is not a dataset, or
            a dataset of unknown length without `steps_per_epoch`.

    Example:
        >>> distiller.fit(batches, epochs=3, callbacks=[Backup("runs/mine")])  # doctest: +SKIP
    """

    order = 1  # After stages, which add variables to the optimizer.

    def __init__(
        self,
        folder: str | os.PathLike[str],
        every: int | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        if every is not None and (int(every) != every or every < 1):
            raise InputError(
                f"`every` must be an integer of at least 1. Received: every={every}. Use 500, or "
                "None for one backup per epoch."
            )
        self.folder = Path(folder)
        self.every = every
        self.settings = json.loads(json.dumps(dict(settings or {})))
        self._reset()

    def _reset(self) -> None:
        self.state: dict[str, Any] = {"step": 0, "epoch": 0, "batch": 0, "history": []}
        self._logs: dict[str, float] = {}
        self._opened = False

    @property
    def step(self) -> int:
        """Number of completed steps in the backup."""
        return self.state["step"]

    def open(self, *, resume: bool = True, overwrite: bool = False) -> None:
        """Reads the backup, if there is one.

        Args:
            resume: Whether to continue from it.
            overwrite: Whether to start again if `resume` is false. The old
                backup stays until the first new one is written.

        Raises:
            InputError: If a backup would be lost, or it has other settings.
        """
        self._reset()
        self._opened = True
        if not self._state_file.is_file():
            self._refuse_other_files()
            return
        if not resume:
            if not overwrite:
                raise InputError(
                    "A backup of an unfinished training must be resumed or overwritten. "
                    f"Received: {self.folder}. Pass resume=True to continue, or overwrite=True to "
                    "start again."
                )
            self._refuse_other_files()
            return
        state = self._read_state()
        self._refuse_other_settings(state)
        self.state = state

    def _read_state(self) -> dict[str, Any]:
        try:
            state = json.loads(self._state_file.read_bytes())
        except (OSError, ValueError):
            state = None
        found = state.pop("checksum", None) if isinstance(state, dict) else None
        if found is None or not state.keys() >= _STATE or found != _checksum(state):
            raise InputError(
                f"A backup must be complete and unchanged. Received: {self._state_file}, which is "
                "damaged or was changed. Pass overwrite=True and resume=False to start again."
            )
        return state

    def _refuse_other_files(self) -> None:
        """Refuses a folder of the user's files."""
        if self.folder.exists() and not self.folder.is_dir():
            raise InputError(
                f"A backup needs a folder. Received: {self.folder}, a file. Choose another name."
            )
        names = [path.name for path in self._files() if path != self._state_file]
        others = [name for name in names if not _VARIABLES.fullmatch(name)]
        if others:
            raise InputError(
                "The folder of a backup must be new, empty, or contain a backup. Received: "
                f"{self.folder} with {sorted(others)[0]!r}. Choose another folder."
            )

    def _files(self) -> list[Path]:
        return list(self.folder.iterdir()) if self.folder.is_dir() else []

    def _delete(self, keep: str | None = None) -> None:
        """Deletes the variables of all steps except one."""
        for path in self._files():
            if _VARIABLES.fullmatch(path.name) and path.name != keep:
                path.unlink()

    def require(self, **settings: Any) -> None:
        """Adds JSON-serializable settings that a resumed run must share, and opens the backup.

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
                    f"A resumed training needs the settings it started with. Received: {name}="
                    f"{value}, before {name}={state['settings'].get(name)}. Use the same settings, "
                    "or pass overwrite=True and resume=False to start again."
                )

    @contextmanager
    def run(self, distiller: Any, arguments: dict[str, Any]) -> Iterator[None]:
        """Restores the training, and skips the completed batches."""
        batches, steps = endless_batches(arguments["x"], arguments["steps_per_epoch"])
        self._refuse_unfit_epochs(distiller, steps, arguments["initial_epoch"])
        with distiller.distribute_strategy.scope():
            self._restore(distiller)
        # After all others, so that the history has their logs.
        others = [callback for callback in arguments["callbacks"] if callback is not self]
        arguments.update(x=batches, steps_per_epoch=steps, callbacks=[*others, self])
        if self.step:
            arguments["initial_epoch"] = self.state["epoch"]
            distiller._logged = tuple(self.state["logged"])
        skip = _Skip(
            before=self.state["epoch"] * steps,
            inside=self.state["batch"],
            steps_per_execution=distiller.steps_per_execution,
            logs=distiller.get_metrics_result,
        )
        object.__setattr__(distiller, "_read_on", skip.before_training)
        distiller.make_train_function(force=True)
        try:
            yield
        finally:
            object.__setattr__(distiller, "_read_on", None)
            distiller.train_function = None

    def _refuse_unfit_epochs(self, distiller: Any, steps: int, initial_epoch: int) -> None:
        """Refuses epochs whose batches cannot be counted."""
        together = distiller.steps_per_execution
        if steps % together:
            raise InputError(
                "With a Backup an epoch must end at the end of an execution. Received: "
                f"steps_per_epoch={steps}, steps_per_execution={together}. Use a multiple of "
                f"{together}."
            )
        if initial_epoch:
            raise InputError(
                "A Backup counts epochs from 0. Received: "
                f"initial_epoch={initial_epoch}. Omit it; the backup continues at its epoch."
            )

    def _restore(self, model: keras.Model) -> None:
        if not self._opened:
            self.open()
        if not self.step:
            return
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_weights)
        read_variables(self.folder / self.state["variables"], model, self.state["sha256"])

    def finish(self, history: str | os.PathLike[str] | None = None) -> list[dict[str, Any]]:
        """Deletes the backup, after the trained model is saved elsewhere.

        Args:
            history: File to write the history to.

        Returns:
            One entry per epoch: its last step, and its mean losses.
        """
        entries = self.state["history"]
        if self.state["batch"]:  # Training was stopped within the last epoch on purpose.
            entries = [*entries, {"step": self.step, **self._logs}]
        if self.model is None or replicas.is_chief(self.model.distribute_strategy):
            if history is not None:
                _write(Path(history), entries)
            self._state_file.unlink(missing_ok=True)
            self._delete()
            if self.folder.is_dir() and not self._files():
                self.folder.rmdir()
        self._reset()
        return entries

    # ---- during fit -------------------------------------------------------

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuses a `fit` that does not resume.

        Raises:
            InputError: If it is not the `fit` of a Distiller.
        """
        if not hasattr(self.model, "running_means"):
            raise InputError(
                "A Backup keeps the training of a Distiller. Received: "
                f"{type(self.model).__name__}. Use keras.callbacks.BackupAndRestore."
            )

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Continues with the running means of the interrupted epoch."""
        self._epoch, self._batch = epoch, 0
        if epoch == self.state["epoch"] and self.state["batch"]:
            for name, tracker in self.model.running_means().items():
                for variable, value in zip(
                    tracker.variables, self.state["means"].get(name, ()), strict=False
                ):
                    variable.assign(value)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the backup if one is due."""
        before, self._batch = self._batch, batch + 1
        if self._is_done(self._epoch, self._batch):
            return
        if self.every and self._batch // self.every > before // self.every:
            self._keep(self._epoch, self._batch)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the backup: of the complete epoch, or of the step at which it was stopped."""
        self._logs = {name: float(value) for name, value in (logs or {}).items()}
        if self.model.stop_training and self._batch < (self.params.get("steps") or np.inf):
            if not self._is_done(epoch, self._batch):
                self._keep(epoch, self._batch)
            return
        step = int(self.model.optimizer.iterations.numpy())
        history = [*self.state["history"], {"step": step, **self._logs}]
        self._keep(epoch + 1, 0, history)

    def _is_done(self, epoch: int, batch: int) -> bool:
        """Whether the backup already covers this batch: it was skipped, not trained."""
        return (epoch, batch) <= (self.state["epoch"], self.state["batch"])

    def _keep(self, epoch: int, batch: int, history: list[Any] | None = None) -> None:
        step = int(self.model.optimizer.iterations.numpy())
        # All workers take part in reading distributed variables.
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
            "logged": list(self.model._logged),
            "settings": self.settings,
            "history": self.state["history"] if history is None else history,
        }
        if not replicas.is_chief(self.model.distribute_strategy):
            return
        self.state["sha256"] = write_variables(self.folder / variables, self.model)
        _write(self._state_file, {**self.state, "checksum": _checksum(self.state)})
        self._delete(keep=variables)

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.json"


class _Skip:
    """Reads the batches of an interrupted training without training on them.

    The dataset, including its shuffling and prefetching, is then at the position at
    which the training was interrupted.

    Args:
        before: Batches of the epochs before the interrupted one.
        inside: Batches of the interrupted epoch.
        steps_per_execution: Batches per call of the train function.
        logs: Returns the logs of a call that does not train.
    """

    def __init__(
        self,
        before: int,
        inside: int,
        steps_per_execution: int,
        logs: Callable[[], dict[str, Any]],
    ) -> None:
        self.before, self.inside = before, inside
        self.steps_per_execution = steps_per_execution
        self.logs = logs
        self._last: dict[str, Any] | None = None

    def before_training(self, train_function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Returns a train function whose first calls only read."""

        def read_or_train(iterator: Any) -> Any:
            for _ in range(self.before):
                next(iterator)
            self.before = 0
            if not self.inside:
                return train_function(iterator)
            passed = min(self.steps_per_execution, self.inside)
            for _ in range(passed):
                next(iterator)
            self.inside -= passed
            if self._last is None:
                self._last = self.logs()
            return self._last

        return read_or_train


def endless_batches(batches: Any, steps_per_epoch: int | None) -> tuple[Any, int]:
    """Returns a dataset that repeats without end, and its number of batches per epoch.

    One iterator then yields all epochs, so a position in it is one number.

    Args:
        batches: A `tf.data.Dataset`, or the distributed dataset of a strategy.
        steps_per_epoch: Batches per epoch; the dataset's length if None.

    Raises:
        InputError: If it is not a dataset, or its length is unknown.
    """
    if not isinstance(batches, (tf.data.Dataset, tf.distribute.DistributedDataset)):
        raise InputError(
            "Training with a backup or stages needs a tf.data.Dataset. Received: "
            f"{type(batches).__name__}. Write tf.data.Dataset.from_tensor_slices(...).batch(...)."
        )
    length = batches.cardinality  # A method, or a strategy's number.
    length = int(length() if callable(length) else length)
    if steps_per_epoch is None and length < 0:
        raise InputError(
            "Training with a backup or stages needs the length of an epoch. Received: a dataset "
            "of unknown length. Pass steps_per_epoch=."
        )
    if isinstance(batches, tf.data.Dataset) and length != tf.data.INFINITE_CARDINALITY:
        batches = batches.repeat()
    return batches, steps_per_epoch or length


def _checksum(state: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _write(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def write_variables(path: Path, model: keras.Model) -> str:
    """Writes weights, random states and the optimizer's variables, bit for bit.

    Returns the SHA-256 of the file.

    Keras' `save_weights` writes HDF5 in place, which crashes the process on a
    full disk; here all bytes are in memory before the file is written.

    Raises:
        InputError: If the file cannot be written; `path` is unchanged.
    """
    arrays = {
        # As bytes: safetensors has no NumPy type for bfloat16.
        str(number): np.frombuffer(np.asarray(variable.numpy()).tobytes(), np.uint8)
        for number, variable in enumerate(_variables(model))
    }
    content = save(arrays)
    with atomic_write(path) as temporary:
        temporary.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


def read_variables(path: Path, model: keras.Model, sha256: str | None = None) -> None:
    """Sets the variables of a model that is built like the one that was written.

    Raises:
        InputError: If the file is missing, changed, or of another model.
    """
    try:
        content = path.read_bytes()
        if sha256 not in (None, hashlib.sha256(content).hexdigest()):
            raise SafetensorError("it was changed")
        arrays = load(content)
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"A backup must be complete. Received: {path}, which cannot be read ({error}). "
            "Pass overwrite=True and resume=False to start again."
        ) from error
    variables = _variables(model)
    sizes = [variable.numpy().nbytes for variable in variables]
    if sizes != [arrays[str(n)].nbytes for n in range(len(arrays)) if str(n) in arrays]:
        raise InputError(
            f"A backup must be of the same model. Received: {path} with {len(arrays)} variables; "
            f"this training has {len(variables)}, or other sizes. Build the model and the "
            "optimizer as before, or delete the backup's folder."
        )
    for number, variable in enumerate(variables):
        kept = np.frombuffer(arrays[str(number)].tobytes(), variable.numpy().dtype)
        variable.assign(kept.reshape(variable.shape))


def _variables(model: keras.Model) -> list[keras.Variable]:
    return [*model.variables, *model.optimizer.variables]
