"""The private methods of Keras that training under a strategy has to replace.

All of them are here, and only for the Keras they were tested with: a strategy
under another version is refused, a plain `fit` never comes here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from kdkeras.errors import InputError

__all__ = ["StrategyHooks", "require_tested_keras"]

TESTED = ("3.15",)


def require_tested_keras(version: str = keras.__version__) -> None:
    """Refuses a Keras whose private methods may be others.

    Raises:
        InputError: Naming the version that works.
    """
    if version.rpartition(".")[0] not in TESTED:
        raise InputError(
            f"Training under a tf.distribute strategy needs Keras {' or '.join(TESTED)}. "
            f"Received: keras {version}. Install keras=={TESTED[-1]}.*, or train without a strategy."
        )


class StrategyHooks(keras.Model):
    """A model whose `fit` and `evaluate` work under a strategy (Keras 3.15)."""

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Keras would call the model on float tensors, which are no token ids.
        if self._distribute_strategy is not None and self.optimizer is not None:
            with self._distribute_strategy.scope():
                self.optimizer.build(self.trainable_weights)

    def _make_function(self, step_function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        if self._distribute_strategy is None or self.steps_per_execution == 1:
            return super()._make_function(step_function)
        # Keras' loop in the graph ends with an error under a strategy
        # (github.com/keras-team/keras/issues/19246): the steps run one by one.
        steps, self.steps_per_execution = self.steps_per_execution, 1
        one_step = super()._make_function(step_function)
        self.steps_per_execution = steps
        return lambda iterator: _several(one_step, iterator, steps)


def _several(one_step: Callable[[Any], Any], iterator: Iterator[Any], steps: int) -> Any:
    logs = one_step(iterator)
    for _ in range(steps - 1):
        try:
            logs = one_step(iterator)
        except (StopIteration, tf.errors.OutOfRangeError):
            break
    return logs
