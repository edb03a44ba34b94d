"""The losses of Keras, from teacher to student."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses.arguments import scheduled
from kdkeras.losses.base import DistillationLoss
from kdkeras.schedules import serialized, value_at

__all__ = ["KerasLoss"]

# Of Keras' own, those that are least where the student says what the teacher said,
# for numbers of any sign. The others read probabilities or labels.
_DISTANCES = (
    keras.losses.mean_squared_error,
    keras.losses.mean_absolute_error,
    keras.losses.mean_absolute_percentage_error,
    keras.losses.huber,
    keras.losses.log_cosh,
    keras.losses.cosine_similarity,
)


@keras.saving.register_keras_serializable(package="kdkeras")
class KerasLoss(DistillationLoss):
    """Computes a loss of Keras, or one written like them, for each example.

    Its own reduction is left out: the `Distiller` divides by the batch of all
    replicas. Dimensions besides the first are averaged.

    Cost: that of the function.

    Formula:

    ```
    loss = mean(function(teacher / temperature, student / temperature), but for the first axis)
    ```

    Args:
        function: A `keras.losses.Loss`, a name that Keras knows, or a function
            of `(y_true, y_pred)` that gives one value an example or more.
        temperature: What both sides are divided by, above 0; a float, or a
            schedule of the step. Defaults to 1.0.
        target: Key of the teacher target.

    Call arguments:
        y_true: `(B, ...)` float, what the teacher said.
        y_pred: The same shape, what the student says.

    Returns:
        `(B,)` float32.

    Raises:
        InputError: If the function reads probabilities or labels, sums over the
            batch, or gives one value a batch; if `temperature` is not positive,
            or the shapes differ.

    Example:
    >>> import numpy as np
    >>> teacher, student = np.array([[1.0, 0.0]]), np.array([[0.0, 3.0]])
    >>> float(KerasLoss("mse")(teacher, student)[0])
    5.0
    """

    takes = {"step": "step"}

    def __init__(
        self,
        function: str | Callable[[Any, Any], Any],
        temperature: Any = 1.0,
        target: str = "embedding",
        name: str = "keras_loss",
        **kwargs: Any,
    ) -> None:
        super().__init__(target=target, name=name, **kwargs)
        self.function = keras.losses.get(function)
        self.temperature = scheduled("temperature", temperature)
        formula = getattr(self.function, "fn", self.function)
        named = getattr(formula, "__name__", type(formula).__name__)
        self.may_be_negative = formula is keras.losses.cosine_similarity
        if getattr(self.function, "reduction", None) == "sum":
            raise InputError(
                "The Distiller takes the mean over the batch. Received: "
                f"{named} with reduction='sum'. Leave `reduction` out, and set loss_weights=."
            )
        if formula.__module__.startswith("keras.") and formula not in _DISTANCES:
            raise InputError(
                "A loss between outputs must be least where they are equal. Received: "
                f"{named}, which reads probabilities or labels. Use "
                "kdkeras.losses.SoftTargets(temperature=...) for logits."
            )

    def loss(self, teacher: Any, student: Any, step: Any = None) -> Any:
        """Returns the function's value of each example, `(B,)`."""
        # `call` is a Loss before its reduction, which would divide by the replicas.
        function = getattr(self.function, "call", self.function)
        temperature = value_at(self.temperature, step)
        values = function(teacher / temperature, student / temperature)
        if len(values.shape) == 0:
            raise InputError(
                "A loss must give one value an example. Received: one value a batch from "
                f"`{self.name}`. Leave out its mean over the batch."
            )
        return ops.mean(values, axis=tuple(range(1, len(values.shape))))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        function = keras.losses.serialize(self.function)
        if settings := getattr(self.function, "_fn_kwargs", None):
            # Keras 3.15 forgets Huber's `delta` and CosineSimilarity's `axis`.
            function["config"] = {**settings, **function["config"]}
        temperature = serialized(self.temperature)
        return {**super().get_config(), "function": function, "temperature": temperature}
