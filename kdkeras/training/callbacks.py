"""Callbacks of `Distiller.fit`."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable, Sequence
from typing import Any

import keras

from kdkeras import replicas
from kdkeras.distillation.keras_hooks import compiled_forward
from kdkeras.errors import InputError
from kdkeras.evaluation.evaluator import Evaluator, evaluate_all
from kdkeras.layers.fake_quantization import read_scheme
from kdkeras.progress import Progress
from kdkeras.students import Student

__all__ = [
    "EvaluationCallback",
    "QuantizationAwareTraining",
    "ReportProgress",
    "StopAtStep",
    "StopOnTermination",
]


class EvaluationCallback(keras.callbacks.Callback):
    """Adds the results of evaluators to the logs at the end of epochs.

    They appear in `History`, and in callbacks that come after this one, such
    as `CSVLogger` or `EarlyStopping`. Put it first. In an epoch without
    evaluation the last results are repeated, because those callbacks expect the
    same keys in every epoch.

    Args:
        evaluators: Evaluators to run.
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
        """The student of a Distiller, otherwise the model."""
        return getattr(self.model, "student", self.model)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuses a model without `encode` before any step."""
        self._last = {}
        if not hasattr(self.encoder, "encode"):
            raise InputError(
                "EvaluationCallback needs a Distiller, or a model with `encode(texts)`. "
                f"Received: {type(self.encoder).__name__}. Train a kdkeras student."
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Evaluates and adds the results to `logs`."""
        if not self._last or (epoch + 1) % self.every == 0:
            self._last = evaluate_all(self.evaluators, self.encoder)
        if logs is not None:
            logs.update(self._last)


class QuantizationAwareTraining(keras.callbacks.Callback):
    """Trains the last part of a run with fake quantization, rounded as in the exported file.

    From `start_step` on, the forward pass uses the table and the kernels as the
    int8 or int4 file stores them, and dense layers quantize their inputs as
    LiteRT does. Gradients reach the float32 weights as if nothing was rounded
    (straight-through estimator). It is worth its cost for formats that lose
    accuracy, such as int4.

    The step is that of the optimizer, so a resumed training quantizes from the
    same step on. The step is traced again at the switch. Validation also uses
    fake quantization from then on. At the end the student computes in float32.

    Args:
        scheme: `"int4"` or `"int8"`, the format that will be shipped.
        start_step: Number of updates before the switch, 0 or more; about 0.7 of
            all. The switch happens at the first execution
            (`steps_per_execution`) that starts there or later.

    Raises:
        InputError: If the scheme is unknown or `start_step` negative; at the
            start of training, if the model is not a Distiller of a `Student`.

    References:
        Jacob et al. (2018), arXiv:1712.05877, section 3; Bengio et al. (2013),
        arXiv:1308.3432.

    Example:
        >>> callback = QuantizationAwareTraining("int4", start_step=4_200)
        >>> distiller.fit(batches, epochs=3, callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(self, scheme: str, start_step: int) -> None:
        super().__init__()
        self.scheme = read_scheme(scheme)
        if self.scheme is None or int(start_step) != start_step or start_step < 0:
            raise InputError(
                "Quantization-aware training needs a scheme and a `start_step` of 0 or more. "
                f"Received: scheme={scheme!r}, start_step={start_step}. Start at 0.7 of all steps."
            )
        self.start_step = int(start_step)

    @property
    def student(self) -> Any:
        """The student of the Distiller that is trained."""
        return getattr(self.model, "student", None)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuses layers that cannot be quantized before any step."""
        if not isinstance(self.student, Student):
            raise InputError(
                "Quantization-aware training needs a Distiller of a kdkeras student. "
                f"Received: {type(self.student or self.model).__name__}. Omit the callback."
            )
        # Raises an InputError if a layer cannot.
        self.student.fake_quantization = self.scheme
        self._switch(None)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Switches at the step, or at once if training is resumed after it."""
        if self.student.fake_quantization is None:
            if int(self.model.optimizer.iterations.numpy()) >= self.start_step:
                self._switch(self.scheme)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Restores the float32 forward pass."""
        self._switch(None)

    def _switch(self, scheme: str | None) -> None:
        self.student.fake_quantization = scheme
        distiller = self.model
        if distiller._forward is not self.student:
            # A compiled forward pass would continue to use the earlier trace.
            object.__setattr__(distiller, "_forward", compiled_forward(self.student))
        distiller.test_function = None
        distiller.make_train_function(force=True)


class StopOnTermination(keras.callbacks.Callback):
    """Stops training gracefully after the current step when a signal arrives.

    A `Backup` then saves that step. With several workers all stop at the same
    step, whichever of them received the signal. It is a context manager that
    restores the previous signal handlers. Schedulers send SIGTERM about 30 s before
    they kill a process (preemption). A second signal has its usual effect. Outside
    the main thread, where Python does not allow signal handlers, it does nothing.

    Args:
        signals: Signals that stop the training; SIGTERM by default.

    Attributes:
        requested: Whether any of the workers received a signal.
        received: The signal that this process received, or None.

    Example:
        >>> with StopOnTermination() as termination:  # doctest: +SKIP
        ...     distiller.fit(batches, epochs=9, callbacks=[termination, Backup("run")])
    """

    def __init__(self, signals: Sequence[int] = (signal.SIGTERM,)) -> None:
        super().__init__()
        self.signals = tuple(signals)
        self.requested = False
        self.received: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopOnTermination:
        if threading.current_thread() is threading.main_thread():
            self._before = {name: signal.signal(name, self._request) for name in self.signals}
        return self

    def __exit__(self, *error: object) -> None:
        for name, handler in self._before.items():
            signal.signal(name, handler)

    def _request(self, received: int, frame: Any) -> None:
        self.requested, self.received = True, received
        signal.signal(received, self._before[received])

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops if a stop was requested."""
        self.requested = replicas.any_worker(self.model.distribute_strategy, self.requested)
        if self.requested:
            self.model.stop_training = True


class StopAtStep(keras.callbacks.Callback):
    """Stops training at a number of updates, within an epoch if necessary.

    Args:
        step: Number of updates of the whole training.
    """

    def __init__(self, step: int) -> None:
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Stops at the step."""
        if int(self.model.optimizer.iterations.numpy()) >= self.step:
            self.model.stop_training = True


class ReportProgress(keras.callbacks.Callback):
    """Reports the updates that are done, with the running loss.

    Args:
        progress: Called after each execution with `"Training, loss …"`.
        total: Number of updates of the whole training.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        super().__init__()
        self.progress, self.total = progress, total

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Reports the steps that are done already."""
        self.progress("Training", int(self.model.optimizer.iterations.numpy()), self.total)

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Reports the step."""
        done = int(self.model.optimizer.iterations.numpy())
        self.progress(f"Training, loss {float((logs or {})['loss']):.3f}", done, self.total)
