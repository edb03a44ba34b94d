"""Extensions of Keras: private methods that a strategy needs, and callbacks of a whole run.

The replacements of private methods were tested with one version of Keras.
Training under a strategy raises an error with other versions; training without
a strategy does not use them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdkeras import replicas
from kdkeras.errors import InputError, NonFiniteLossError

__all__ = [
    "RunCallback",
    "StopOnNonFinite",
    "StrategyModel",
    "compiled_forward",
    "differ_by_replica",
    "require_tested_keras",
    "run_callbacks",
]

TESTED = ("3.15",)


def require_tested_keras(version: str = keras.__version__) -> None:
    """Raises for versions of Keras whose private methods may differ.

    Raises:
        InputError: Naming the supported version.
    """
    if version.rpartition(".")[0] not in TESTED:
        raise InputError(
            f"Training under a tf.distribute strategy needs Keras {' or '.join(TESTED)}. "
            f"Received: keras {version}. Install keras=={TESTED[-1]}.*, or omit the strategy."
        )


def differ_by_replica(model: keras.Model) -> None:
    """Gives every replica different random numbers.

    Under a strategy all replicas read the same seeds, so all would use the same
    dropout mask.
    """
    for layer in model._flatten_layers():
        for generator in layer._seed_generators:
            generator.next = _ReplicaSeeds(generator)


class _ReplicaSeeds:
    """The `next` method of a generator, with an offset per replica."""

    def __init__(self, generator: keras.random.SeedGenerator) -> None:
        self.next = generator.next

    def __call__(self, ordered: bool = True) -> Any:
        seed = self.next(ordered)
        # A large offset, so that the seeds differ from those of other layers.
        return seed + tf.cast([replicas.replica_id() * 1_000_003, 0], seed.dtype)


def compiled_forward(model: keras.Model) -> Callable[..., Any]:
    """Returns the model's call, compiled by XLA, for replicas of one process.

    A whole compiled step would read variables from the device of another
    replica; a compiled forward pass of one replica does not.
    """
    compiled: dict[Any, Callable[..., Any]] = {}

    def call(inputs: Any, training: bool = False, **requested: Any) -> Any:
        # A traced function uses the variables of the replica that traced it.
        key = (int(tf.get_static_value(replicas.replica_id())), requested.get("outputs"))
        if key not in compiled:
            compiled[key] = tf.function(
                lambda x, training: model(x, training=training, **requested),
                jit_compile=True,
                reduce_retracing=True,
            )
        return compiled[key](inputs, training)

    return call


class RunCallback(keras.callbacks.Callback):
    """Base class of callbacks that change the whole run of `Distiller.fit`."""

    order = 0
    """Callbacks with a lower order prepare the run first."""

    def run(self, distiller: Any, arguments: dict[str, Any]) -> AbstractContextManager[None]:
        """Prepares the run; the context lasts as long as `fit`.

        Args:
            distiller: The compiled Distiller.
            arguments: Arguments of `keras.Model.fit` by name; may be changed.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `run`.")


def run_callbacks(callbacks: Any) -> list[RunCallback]:
    """Returns the callbacks that change the whole run, in the order in which they prepare it.

    Raises:
        InputError: If one is inside a `CallbackList`, which cannot be changed.
    """
    in_list = isinstance(callbacks, keras.callbacks.CallbackList)
    given = callbacks.callbacks if in_list else callbacks
    found = [callback for callback in given if isinstance(callback, RunCallback)]
    if in_list and found:
        raise InputError(
            "Callbacks that change the whole run must be passed in a list. Received: "
            f"{type(found[0]).__name__} in a CallbackList. Pass callbacks=[...]."
        )
    return sorted(found, key=lambda callback: callback.order)


class StrategyModel(keras.Model):
    """A model whose `fit` and `evaluate` work under a strategy (Keras 3.15)."""

    train_function: Any
    jit_compile: Any

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        # Keras would call the model on float tensors, which are not token ids.
        if self._distribute_strategy is not None and self.optimizer is not None:
            with self._distribute_strategy.scope():
                self.optimizer.build(self.trainable_weights)

    def _make_function(self, step_function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        if self._distribute_strategy is None:
            return super()._make_function(step_function)
        # Keras' loop in the graph ends with an error under a strategy
        # (github.com/keras-team/keras/issues/19246): the steps run in a Python loop.
        return _python_loop(self._one_step(step_function), self.steps_per_execution)

    def _one_step(self, step_function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        strategy = self._distribute_strategy

        @tf.autograph.experimental.do_not_convert
        def one_step(data: Any) -> Any:
            logs = strategy.run(step_function, args=(data,))
            # Keras would average them, which fails with several workers
            # (github.com/keras-team/keras/issues/20585); they are the same on all replicas.
            return keras.tree.map_structure(
                lambda value: strategy.experimental_local_results(value)[0], logs
            )

        return one_step if self.run_eagerly else tf.function(one_step, reduce_retracing=True)


def _python_loop(one_step: Callable[[Any], Any], steps: int) -> Callable[[Iterator[Any]], Any]:
    def run_steps(iterator: Iterator[Any]) -> Any:
        logs = one_step(next(iterator))
        for _ in range(steps - 1):
            try:
                data = next(iterator)
            except (StopIteration, tf.errors.OutOfRangeError):
                break
            logs = one_step(data)
        return logs

    return run_steps


class StopOnNonFinite(keras.callbacks.Callback):
    """Ends training at the first step whose loss is NaN or infinite.

    The weights are those before that step, also with `steps_per_execution`,
    where the logs are available after the last step of an execution.

    Raises:
        NonFiniteLossError: Naming the terms that are not finite.
    """

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Checks the running mean of every term, which stays NaN once a value was."""
        values = {name: float(np.asarray(value)) for name, value in (logs or {}).items()}
        if np.isfinite(values.get("loss", 0.0)):
            return
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        terms = [name for name in bad if name != "loss"] or bad
        raise NonFiniteLossError(
            f"The loss must stay finite. Received: {', '.join(f'{n}={values[n]}' for n in terms)} "
            f"at step {int(self.model.optimizer.iterations.numpy()) + 1}. "
            "Lower the learning rate, or check the teacher targets for non-finite values."
        )
