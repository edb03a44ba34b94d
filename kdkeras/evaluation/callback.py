"""Evaluation while training."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from kdkeras.errors import InputError
from kdkeras.evaluation.evaluators import Evaluator, evaluate_all

__all__ = ["EvaluationCallback"]


class EvaluationCallback(keras.callbacks.Callback):
    """Adds evaluators' figures to the logs at the end of epochs.

    They appear in `History`, and in callbacks that come after this one, such
    as `CSVLogger` or `EarlyStopping`. Put it first. In an epoch that is not
    evaluated the last figures are repeated, since those callbacks want the
    same keys in every epoch.

    Args:
        evaluators: What to evaluate.
        every: Epochs from one evaluation to the next. The first epoch is
            always evaluated.

    Raises:
        InputError: If `every` is below 1 or there is no evaluator; at the
            start of training, if the model has no `encode`.
    """

    def __init__(self, evaluators: Iterable[Evaluator], every: int = 1) -> None:
        super().__init__()
        self.evaluators = list(evaluators)
        self.every = every
        self._last: dict[str, float] = {}
        if every < 1 or not self.evaluators:
            raise InputError(
                "EvaluationCallback needs an evaluator, and `every` of at least 1. "
                f"Received: {len(self.evaluators)} evaluators, every={every}. Use every=1."
            )

    @property
    def encoder(self) -> Any:
        """The student of a Distiller, otherwise the model itself."""
        return getattr(self.model, "student", self.model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuses a model that cannot encode before an epoch is spent."""
        self._last = {}
        if not hasattr(self.encoder, "encode"):
            raise InputError(
                "EvaluationCallback needs a Distiller, or a model with `encode(texts)`. "
                f"Received: {type(self.encoder).__name__}. Train a kdkeras student."
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluates and adds the figures to `logs`."""
        if not self._last or (epoch + 1) % self.every == 0:
            self._last = evaluate_all(self.evaluators, self.encoder)
        if logs is not None:
            logs.update(self._last)
