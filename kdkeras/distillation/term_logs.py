"""Running means of the loss and of every term, alike on one replica and on many."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kdkeras import replicas
from kdkeras.distillation.batches import Rows, StudentOutputs, named_output
from kdkeras.distillation.keras_hooks import StrategyHooks
from kdkeras.distillation.terms import Terms
from kdkeras.distillation.weights import REGULARIZATION, WEIGHT_LOG

__all__ = ["TermLogs"]


class TermLogs(StrategyHooks):
    """What a Distiller logs: the loss, every term, weights that change, and metrics."""

    def _track_terms(self, names: list[str]) -> None:
        """Creates the running means of the losses' terms and weights."""
        every = [*names, REGULARIZATION, *(f"{WEIGHT_LOG}{name}" for name in names)]
        self.term_trackers = {name: keras.metrics.Mean(name=name) for name in every}
        self._logged: tuple[str, ...] = ("loss",)

    def running_means(self) -> dict[str, keras.metrics.Mean]:
        """Returns the trackers of the loss and of every term, by name."""
        return {"loss": self._loss_tracker, **self.term_trackers}

    def _finite_so_far(self, loss: Any) -> Any:
        """Whether this loss and those before it are finite on all replicas.

        The running total keeps a NaN: with `steps_per_execution` the steps
        after a spoiled one leave the weights alone too.
        """
        return ops.isfinite(replicas.total(loss + self._loss_tracker.total.value))

    def _track(self, rows: Rows, outputs: StudentOutputs, logged: Terms) -> tuple[str, ...]:
        """Adds sums over rows to the running means; returns their names."""
        for name, value in logged.items():
            tracker = self._mean_of(name)
            # A mean, and how much it counts; a replica without a row counts nothing.
            tracker.update_state(ops.divide_no_nan(value, rows.count), sample_weight=rows.count)
        if self._compile_metrics is not None and rows.batch.labels is not None:
            prediction = named_output(outputs.source, "logits")
            self._compile_metrics.update_state(
                rows.batch.labels, prediction, sample_weight=rows.weight
            )
        return tuple(logged)

    def _logs(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Running means over all replicas, the same on each of them."""
        self._logged = names
        trackers = [self._mean_of(name) for name in names]
        own = tf.stack([v.value for t in trackers for v in (t.total, t.count)])
        sums = ops.reshape(replicas.total(own), (len(names), 2))
        means = ops.unstack(ops.divide_no_nan(sums[:, 0], sums[:, 1]))
        logs = dict(zip(names, means, strict=True))
        if self._compile_metrics is not None and self._compile_metrics.built:
            logs.update(self._compile_metrics.result())
        return logs

    def _mean_of(self, name: str) -> keras.metrics.Mean:
        return self._loss_tracker if name == "loss" else self.term_trackers[name]

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns what the steps log, from all replicas and workers together."""
        result = {name: self._mean_of(name).result() for name in self._logged}
        if self._compile_metrics is not None and self._compile_metrics.built:
            result.update(self._compile_metrics.result())
        return result
