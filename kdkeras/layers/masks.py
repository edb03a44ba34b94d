"""Layers that fade in new units of a grown student."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

__all__ = ["MaskLevel", "MaskedNorm"]


@keras.saving.register_keras_serializable(package="kdkeras")
class MaskLevel(keras.layers.Layer):
    """Holds the mask level: the factor of new units, from 0 to 1.

    All layers of a student share one level, which the student creates. A layer
    that is loaded alone has its own level.

    Attributes:
        level: The factor, a scalar non-trainable weight. Initially 0.
    """

    def build(self, input_shape: Any = None) -> None:
        """Creates the weight."""
        self.level = self.add_weight(
            shape=(), initializer="zeros", trainable=False, autocast=False, name="level"
        )
        self.built = True

    def counts(self, old: np.ndarray, dtype: Any) -> Any:
        """Returns 1 for each old unit and the level for each new one.

        Args:
            old: `(units,)` bool, True for old units.
            dtype: Dtype of the result.
        """
        kept = ops.convert_to_tensor(old.astype("float32"))
        return ops.cast(kept + ops.cast(self.level, "float32") * (1.0 - kept), dtype)


@keras.saving.register_keras_serializable(package="kdkeras")
class MaskedNorm(keras.layers.LayerNormalization):
    """Layer normalization that weighs new units by the mask level.

    Formula, with `c` = 1 for the first `old_size` units and the level for the others:

    ```
    mean = sum(c x) / sum(c),   variance = sum(c (x - mean)^2) / sum(c)
    outputs = ((x - mean) / sqrt(variance + epsilon) * gamma + beta) * c
    ```

    At level 0 this normalizes the old units and returns 0 for the new ones; at
    level 1 it normalizes all units.

    Args:
        level: A `MaskLevel`.
        old_size: Number of old units.

    Call arguments:
        inputs: `(..., d)` float.

    Returns:
        The same shape.

    References:
        Yao et al. (2023), arXiv:2305.02869.
    """

    def __init__(self, level: Any, old_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.level = as_level(level)
        self.old_size = int(old_size)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Creates `gamma` and `beta`."""
        if not self.level.built:
            self.level.build()
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Returns the normalized units."""
        # Sums of squares overflow in float16.
        wide = "float64" if self.compute_dtype == "float64" else "float32"
        x = ops.cast(inputs, wide)
        counts = self.level.counts(np.arange(x.shape[-1]) < self.old_size, wide)
        total = ops.sum(counts)
        centered = x - ops.sum(counts * x, axis=-1, keepdims=True) / total
        variance = ops.sum(counts * ops.square(centered), axis=-1, keepdims=True) / total
        scaled = centered * ops.rsqrt(variance + self.epsilon)
        outputs = scaled * ops.cast(self.gamma, wide) + ops.cast(self.beta, wide)
        return ops.cast(outputs * counts, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "level": keras.saving.serialize_keras_object(self.level),
            "old_size": self.old_size,
        }


def as_level(level: Any) -> MaskLevel:
    """Returns the `MaskLevel`, deserialized if `level` is its configuration."""
    if isinstance(level, dict):
        level = keras.saving.deserialize_keras_object(level)
    return level
