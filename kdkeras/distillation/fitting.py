"""How a Distiller is trained: with a backup, and in stages."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import keras
import tensorflow as tf

from kdkeras.distillation.backup import Backup, endless_batches
from kdkeras.distillation.keras_hooks import StrategyHooks
from kdkeras.distillation.monitor import StopOnNonFinite
from kdkeras.distillation.stages import Stage, StagedTraining
from kdkeras.errors import InputError

if TYPE_CHECKING:
    from kdkeras.distillation.distiller import Distiller

__all__ = ["Fitting"]


class Fitting(StrategyHooks):
    """The `fit` of a Distiller, and `fit_stages`."""

    _stages: StagedTraining | None

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        *,
        callbacks: Any = None,
        backup: Backup | str | os.PathLike[str] | None = None,
        **named: Any,
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, and stops at a non-finite loss.

        Args:
            x: As for Keras; usually a `tf.data.Dataset` of batches.
            y: As for Keras.
            callbacks: As for Keras.
            backup: A folder, or a `Backup`: the training is kept there, and
                goes on from what is there, at the batch it was stopped at. `x`
                must be a dataset that gives the same batches again, and its
                passes are read one after the other without end.
            **named: As for Keras.

        Raises:
            NonFiniteLossError: At the step at which a term became NaN or
                infinite, naming it.
            InputError: If there is a `sample_weight` and nothing in `y`, or a backup
                is wanted and `x` is no dataset, or of unknown length without
                `steps_per_epoch`.
        """
        _refuse_lost_weights(y, named)
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [StopOnNonFinite(), *keras.tree.flatten(callbacks or [])]
        # Keras warns that it cannot shuffle a dataset; nobody asked it to.
        named.setdefault("shuffle", not isinstance(x, tf.data.Dataset))
        if backup is None:
            return super().fit(x, y, callbacks=callbacks, **named)
        if not isinstance(backup, Backup):
            backup = Backup(backup)
        with self.distribute_strategy.scope():
            backup.restore(self)
        batches, steps = endless_batches(x, named.pop("steps_per_epoch", None))
        named.update(backup.first_epoch())
        callbacks.append(backup)
        with backup.passing_over(self, steps):
            return super().fit(batches, y, callbacks=callbacks, steps_per_epoch=steps, **named)

    def evaluate(self, x: Any = None, y: Any = None, **named: Any) -> Any:
        """Evaluates as `keras.Model.evaluate` does.

        Raises:
            InputError: If there is a `sample_weight` and nothing in `y`.
        """
        _refuse_lost_weights(y, named)
        return super().evaluate(x, y, **named)

    def fit_stages(
        self,
        x: Any,
        stages: Sequence[Stage],
        *,
        callbacks: Any = None,
        backup: Backup | str | os.PathLike[str] | None = None,
        steps_per_epoch: int | None = None,
        **named: Any,
    ) -> keras.callbacks.History:
        """Trains through stages that differ in losses, frozen layers and learning rate.

        The stage is that of the optimizer's step: a run that is resumed, from
        a backup or as a loaded Distiller, goes on in the right one, and one
        that is through is not trained again. See `StagedTraining`.

        Args:
            x: As for `fit` with a backup, one stream of batches through all stages.
            stages: The stages, in their order.
            callbacks: As for Keras.
            backup: As for `fit`; resumed, it must have the same stages.
            steps_per_epoch: Steps between two lines of the history; the
                dataset's length if None.
            **named: As for Keras, but `epochs`: the stages say how long.

        Raises:
            InputError: As `StagedTraining` and `fit`.
        """
        backup = Backup(backup) if isinstance(backup, (str, os.PathLike)) else backup
        training = StagedTraining(cast("Distiller", self), stages)
        batches, steps_per_epoch = endless_batches(x, steps_per_epoch)
        epochs = training.open(backup, steps_per_epoch, named)
        callbacks = [*keras.tree.flatten(callbacks or []), training]
        with training:
            return self.fit(
                batches,
                callbacks=callbacks,
                backup=backup,
                epochs=epochs,
                steps_per_epoch=steps_per_epoch,
                **named,
            )

    def make_train_function(self, force: bool = False) -> Any:
        """Creates the optimizer's variables first: a step cannot."""
        if not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_weights)
        if self._stages is not None:
            self._stages.enter()
        return super().make_train_function(force)


def _refuse_lost_weights(y: Any, named: dict[str, Any]) -> None:
    """Keras repeats the weights for every tensor in `y`, and drops them where there is none."""
    empty = all(part is None for part in keras.tree.flatten(y))
    if empty and named.get("sample_weight") is not None:
        raise InputError(
            "`sample_weight` needs targets or labels in `y`: Keras leaves it out otherwise. "
            f"Received: y={y}. Give a tf.data.Dataset of (x, {{}}, sample_weight)."
        )
