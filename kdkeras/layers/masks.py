"""Masks that fade new units in."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

__all__ = ["MaskLevel", "MaskedNorm"]


@keras.saving.register_keras_serializable(package="kdkeras")
class MaskLevel(keras.layers.Layer):
    """Holds how much new units count, from 0 to 1.

    One for all layers of a student, which makes it and them: layers that are loaded
    by themselves have a level each.

    Attributes:
        level: The number, a weight that is not trained; 0 at first.
    """

    def build(self, input_shape: Any = None) -> None:
        """Creates the number."""
        self.level = self.add_weight(
            shape=(), initializer="zeros", trainable=False, autocast=False, name="level"
        )
        self.built = True

    def counts(self, old: np.ndarray, dtype: Any) -> Any:
        """Returns 1 for old units and the level for new ones.

        Args:
            old: bool, which units are old.
            dtype: Of the result.
        """
        kept = ops.convert_to_tensor(old.astype("float32"))
        return ops.cast(kept + ops.cast(self.level, "float32") * (1.0 - kept), dtype)


@keras.saving.register_keras_serializable(package="kdkeras")
class MaskedNorm(keras.layers.LayerNormalization):
    """A layer norm over the units that are there.

    Formula, with `c` 1 for the first `old_size` units and the level for the others:

    ```
    mean = sum(c x) / sum(c),   variance = sum(c (x - mean)^2) / sum(c)
    outputs = ((x - mean) / sqrt(variance + epsilon) * gamma + beta) * c
    ```

    At 0 it is the norm of the old units, and 0 for the new; at 1 that of all.

    Args:
        level: A `MaskLevel`.
        old_size: Units that count from the start.

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
        """Creates scale and shift."""
        if not self.level.built:
            self.level.build()
        super().build(input_shape)

    def call(self, inputs: Any) -> Any:
        """Returns the normalised units."""
        # Sums of squares do not fit into 16 bits.
        wide = "float64" if self.compute_dtype == "float64" else "float32"
        x = ops.cast(inputs, wide)
        counts = self.level.counts(np.arange(x.shape[-1]) < self.old_size, wide)
        total = ops.sum(counts)
        centred = x - ops.sum(counts * x, axis=-1, keepdims=True) / total
        variance = ops.sum(counts * ops.square(centred), axis=-1, keepdims=True) / total
        scaled = centred * ops.rsqrt(variance + self.epsilon)
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
    """Returns a level, also from its configuration."""
    if isinstance(level, dict):
        level = keras.saving.deserialize_keras_object(level)
    return level
