"""Distillation with quantisation in the loop."""

from __future__ import annotations

from typing import Any

import keras

from kdkeras.distillation.keras_hooks import compiled_forward
from kdkeras.errors import InputError
from kdkeras.layers.fake_quantization import read_scheme
from kdkeras.students import Student

__all__ = ["QuantizationInTheLoop"]


class QuantizationInTheLoop(keras.callbacks.Callback):
    """Trains the last part with a student that rounds as its exported file does.

    From `start_step` on the forward pass reads the table and the kernels as
    the int8 or int4 file holds them, and dense layers round their inputs as
    LiteRT does; gradients go to the float32 weights as if nothing was rounded
    (straight-through). The weights learn to be good where they will be
    rounded to. Worth it where a format loses: int4.

    The step is that of the optimizer, so that a training that is resumed, from
    a backup too, rounds from the same step on. The step is traced anew at the
    switch. Validation, too, reads the rounding student from then on. At the
    end the student computes in float32 again.

    Args:
        scheme: `"int4"` or `"int8"`, the format that will be shipped.
        start_step: Updates before the switch, 0 or more; about 0.7 of all. It
            comes with the first execution (`steps_per_execution`) that begins
            there or later.

    Raises:
        InputError: If the scheme is unknown or `start_step` negative; at the
            start of training, if what is trained has no `Student`.

    References:
        Jacob et al. (2018), arXiv:1712.05877, section 3; Bengio et al. (2013),
        arXiv:1308.3432.

    Example:
        >>> callback = QuantizationInTheLoop("int4", start_step=4_200)
        >>> distiller.fit(batches, epochs=3, callbacks=[callback])  # doctest: +SKIP
    """

    def __init__(self, scheme: str, start_step: int) -> None:
        super().__init__()
        self.scheme = read_scheme(scheme)
        if self.scheme is None or int(start_step) != start_step or start_step < 0:
            raise InputError(
                "Quantisation in the loop needs a scheme and a `start_step` of 0 or more. "
                f"Received: scheme={scheme!r}, start_step={start_step}. Start at 0.7 of all steps."
            )
        self.start_step = int(start_step)

    @property
    def student(self) -> Any:
        """What is trained: the student of a Distiller."""
        return getattr(self.model, "student", None)

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Refuses what cannot round, before an epoch is spent."""
        if not isinstance(self.student, Student):
            raise InputError(
                "Quantisation in the loop needs a Distiller of a kdkeras student. "
                f"Received: {type(self.student or self.model).__name__}. Leave the callback out."
            )
        # Refused now if a layer cannot.
        self.student.fake_quantization = self.scheme
        self._switch(None)

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Switches at the step, or at once in a training that is resumed after it."""
        if self.student.fake_quantization is None:
            if int(self.model.optimizer.iterations.numpy()) >= self.start_step:
                self._switch(self.scheme)

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Gives the student back its float32 forward pass."""
        self._switch(None)

    def _switch(self, scheme: str | None) -> None:
        self.student.fake_quantization = scheme
        distiller = self.model
        if distiller._forward is not self.student:
            # One that is compiled holds on to what was traced.
            object.__setattr__(distiller, "_forward", compiled_forward(self.student))
        distiller.test_function = None
        distiller.make_train_function(force=True)
