"""A loss of Keras between the outputs of teacher and student."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from kdkeras.errors import InputError
from kdkeras.losses.base import DistillationLoss
from kdkeras.losses.checks import scheduled
from kdkeras.schedules import serialized, value_at

__all__ = ["KerasLoss"]

# The losses of Keras whose minimum is at y_pred = y_true for numbers of any sign. The others
# expect probabilities or labels.
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
    """Computes a loss of Keras, or a function with the same interface, for each example.

    Use it for a distance that kdkeras does not have, such as Huber; otherwise
    use `EmbeddingDistillation` for embeddings and `SoftTargets` for logits. The
    reduction of the Keras loss is not applied, because the `Distiller` divides
    by the batch of all replicas. Dimensions other than the first are averaged.

    Cost: that of the function.

    Formula:

    ```
    loss[i] = mean(function(teacher[i] / temperature, student[i] / temperature))
    ```

    Args:
        function: A `keras.losses.Loss`, the name of one, or a function of
            `(y_true, y_pred)` that returns at least one value per example.
        temperature: Divisor of both sides, above 0; a float, or a schedule of
            the step. Defaults to 1.0.
        target: Key of the teacher target. Defaults to `"embedding"`.

    Call arguments:
        y_true: `(B, ...)` float, the teacher's output.
        y_pred: The same shape, the student's output.
        step: Number of completed updates, an int scalar. Required if
            `temperature` is a schedule.

    Returns:
        `(B,)` float32.

    Raises:
        InputError: If the function expects probabilities or labels, sums over
            the batch, or returns one value per batch; if `temperature` is not
            positive, or the shapes differ.

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
        self.may_be_negative = formula is keras.losses.cosine_similarity
        formula_name = getattr(formula, "__name__", type(formula).__name__)
        if getattr(self.function, "reduction", None) == "sum":
            raise InputError(
                "The Distiller takes the mean over the batch. Received: "
                f"{formula_name} with reduction='sum'. Omit `reduction`, and set loss_weights=."
            )
        if formula.__module__.startswith("keras.") and formula not in _DISTANCES:
            raise InputError(
                "A loss between outputs must have its minimum where they are equal. Received: "
                f"{formula_name}, which expects probabilities or labels. Use "
                "kdkeras.losses.SoftTargets(temperature=...) for logits."
            )

    def loss(self, teacher: Any, student: Any, step: Any = None) -> Any:
        """Returns the function's value of each example, `(B,)`."""
        # `call` of a Keras loss skips its reduction, which would divide by the replicas.
        function = getattr(self.function, "call", self.function)
        temperature = value_at(self.temperature, step)
        values = function(teacher / temperature, student / temperature)
        if len(values.shape) == 0:
            raise InputError(
                "A loss must return one value per example. Received: one value per batch from "
                f"`{self.name}`. Remove the mean over the batch from the function."
            )
        return ops.mean(values, axis=tuple(range(1, len(values.shape))))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        function = keras.losses.serialize(self.function)
        if settings := getattr(self.function, "_fn_kwargs", None):
            # Keras 3.15 omits Huber's `delta` and CosineSimilarity's `axis`.
            function["config"] = {**settings, **function["config"]}
        temperature = serialized(self.temperature)
        return {**super().get_config(), "function": function, "temperature": temperature}
