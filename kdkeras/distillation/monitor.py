"""Stopping at the step at which a loss is no longer a number."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kdkeras.errors import NonFiniteLossError

__all__ = ["StopOnNonFinite"]


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends training at the first step whose loss is NaN or infinite.

    The weights are those before that step, also with `steps_per_execution`,
    where the logs are seen after the last step of an execution.

    Raises:
        NonFiniteLossError: Naming the terms that are not finite.
    """

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Looks at every term's running mean, which keeps a NaN."""
        values = {name: float(np.asarray(value)) for name, value in (logs or {}).items()}
        if np.isfinite(values.get("loss", 0.0)):
            return
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        terms = [name for name in bad if name != "loss"] or bad
        raise NonFiniteLossError(
            f"The loss must stay finite. Received: {', '.join(f'{n}={values[n]}' for n in terms)} "
            f"at step {int(self.model.optimizer.iterations.numpy()) + 1}. "
            "Lower the learning rate, or look for non-finite teacher targets."
        )
