"""Training that can be interrupted: a backup beside the output."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import keras

from kdkeras.errors import InputError
from kdkeras.files import atomic_write

__all__ = ["Backup"]


class Backup(keras.callbacks.Callback):
    """Keeps what an interrupted training needs to go on as if it had not stopped.

    After every round (Keras' epoch) weights and optimizer are written, and
    then, in one atomic step, the file that names them: a kill at any moment
    leaves a whole backup. (`keras.callbacks.BackupAndRestore` overwrites its
    only file in place.)

    Args:
        folder: Where it is kept; deleted by `finish`.
        settings: JSON-able settings; a resumed run must have the same.
    """

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        super().__init__()
        self.folder = folder
        self.settings = json.loads(json.dumps(settings))
        self.state: dict[str, Any] = {"step": 0, "history": []}

    @property
    def step(self) -> int:
        """Steps that are done and kept."""
        return self.state["step"]

    def open(self, *, resume: bool, overwrite: bool) -> None:
        """Reads the backup, if there is one.

        Raises:
            InputError: If there is a backup that would be lost, or one of
                other settings.
        """
        if not self._state_file.is_file():
            return
        if not resume:
            if not overwrite:
                raise InputError(
                    f"There is a backup of an unfinished training. Received: {self.folder}. "
                    "Pass --resume to go on from it, or --overwrite to begin anew."
                )
            shutil.rmtree(self.folder)
            return
        state = json.loads(self._state_file.read_text("utf-8"))
        for name, value in self.settings.items():
            if state["settings"].get(name) != value:
                raise InputError(
                    f"A resumed training needs the settings it began with. Received: {name}="
                    f"{value}, before {name}={state['settings'].get(name)}. Give the same, or "
                    "begin anew with --overwrite instead of --resume."
                )
        self.state = state

    def restore(self, model: keras.Model) -> None:
        """Puts the kept weights and optimizer into a compiled model."""
        if not self.step:
            return
        model.optimizer.build(model.trainable_weights)
        model.load_weights(self.folder / self.state["weights"])

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Writes the backup."""
        step = int(self.model.optimizer.iterations.numpy())
        losses = {name: float(value) for name, value in (logs or {}).items()}
        weights = f"{step}.weights.h5"
        with atomic_write(self.folder / weights) as temporary:
            # Keras asks for the double suffix.
            keras_name = temporary.with_name(f"{temporary.stem}.weights.h5")
            self.model.save_weights(keras_name)
            keras_name.replace(temporary)
        before = self.state.get("weights")
        self.state = {
            "step": step,
            "weights": weights,
            "settings": self.settings,
            "history": [*self.state["history"], {"step": step, **losses}],
        }
        _write(self._state_file, self.state)
        if before not in (None, weights):
            (self.folder / before).unlink(missing_ok=True)

    def finish(self, history: Path) -> list[dict[str, Any]]:
        """Writes the history to a file and deletes the backup.

        Returns:
            One entry a round: the step it ended at, and its mean losses.
        """
        _write(history, self.state["history"])
        shutil.rmtree(self.folder)
        return self.state["history"]

    @property
    def _state_file(self) -> Path:
        return self.folder / "state.json"


def _write(path: Path, content: Any) -> None:
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
