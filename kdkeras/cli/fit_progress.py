"""Callbacks of `model.fit` that the command line needs."""

from __future__ import annotations

from typing import Any

import keras

from kdkeras.cli.progress import progress_bars

__all__ = ["FitProgress", "StopAt"]


class FitProgress(keras.callbacks.Callback):
    """Draws one bar over all steps, with the running loss beside it.

    A context manager: the terminal is given back however training ends.

    Args:
        steps: Steps of the whole training.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.bars = progress_bars()
        self.task = self.bars.add_task("Training", total=steps, unit="steps")

    def __enter__(self) -> FitProgress:
        self.bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.bars.stop()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Moves the bar."""
        done = int(self.model.optimizer.iterations.numpy())
        loss = float((logs or {})["loss"])
        self.bars.update(self.task, completed=done, unit=f"steps, loss {loss:.3f}")


class StopAt(keras.callbacks.Callback):
    """Ends training after a number of steps, inside a round if need be.

    Args:
        steps: Steps of the whole training.
    """

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.steps = steps

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops at the step."""
        if int(self.model.optimizer.iterations.numpy()) >= self.steps:
            self.model.stop_training = True
