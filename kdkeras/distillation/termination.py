"""Ends training in good order when the machine is taken away."""

from __future__ import annotations

import signal
from typing import Any

import keras

from kdkeras import replicas

__all__ = ["StopOnTermination"]


class StopOnTermination(keras.callbacks.Callback):
    """Ends training after the running step when the process gets SIGTERM.

    `Distiller.fit(backup=...)` then keeps that step. With several workers all
    stop at the same step, whichever of them got the signal. A context manager:
    the handler before it is put back. Schedulers send SIGTERM some 30 s before
    they kill.

    Attributes:
        asked: Whether the signal came, to any of the workers.

    Example:
        >>> with StopOnTermination() as termination:  # doctest: +SKIP
        ...     distiller.fit(batches, epochs=9, backup="run", callbacks=[termination])
    """

    def __init__(self) -> None:
        super().__init__()
        self.asked = False

    def __enter__(self) -> StopOnTermination:
        self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *error: object) -> None:
        signal.signal(signal.SIGTERM, self._before)

    def _ask(self, *received: object) -> None:
        self.asked = True

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops, if asked."""
        self.asked = replicas.any_worker(self.model.distribute_strategy, self.asked)
        if self.asked:
            self.model.stop_training = True
