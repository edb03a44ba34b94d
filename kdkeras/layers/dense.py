"""A dense layer that can compute as its quantised export would."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.layers.fake_quantization import (
    QuantizationScheme,
    quantized_activations,
    quantized_kernel,
)

__all__ = ["Dense"]


@keras.saving.register_keras_serializable(package="kdkeras")
class Dense(keras.layers.Dense):
    """`keras.layers.Dense` with a switch for training with quantisation in the loop.

    With `fake_quantization` set, kernel and inputs are rounded to int8 as an
    exported int8 or int4 file does it. The weights stay float32, and the
    switch is in no file. The class has Keras' name, by which files of students
    find the layer's weights.

    Attributes:
        fake_quantization: A scheme, or None (the start) for the layer as it is.
    """

    fake_quantization: QuantizationScheme | None = None

    def assign(self, kernel: Any, bias: Any = None) -> None:
        """Sets kernel `(in, units)` and, where the layer has one, bias `(units,)`."""
        self.set_weights([kernel] if bias is None else [kernel, bias])

    def call(self, inputs: Any, training: bool | None = None) -> Any:
        """Returns `activation(inputs @ kernel + bias)`."""
        if self.fake_quantization is None:
            return super().call(inputs, training=training)
        rounded = ops.cast(quantized_activations(inputs), self.compute_dtype)
        outputs = ops.matmul(rounded, ops.cast(quantized_kernel(self.kernel), self.compute_dtype))
        if self.bias is not None:
            outputs = outputs + ops.cast(self.bias, outputs.dtype)
        return outputs if self.activation is None else self.activation(outputs)
