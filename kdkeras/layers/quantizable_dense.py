"""A dense layer that can simulate its quantized export."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kdkeras.layers.fake_quantization import (
    QuantizationScheme,
    quantized_activations,
    quantized_kernel,
)

__all__ = ["QuantizableDense"]


@keras.saving.register_keras_serializable(package="kdkeras")
class QuantizableDense(keras.layers.Dense):
    """`keras.layers.Dense` with a switch for quantization-aware training.

    With `fake_quantization` set, the kernel and the inputs are rounded to int8
    in the same way as in an exported int8 or int4 file. The weights stay
    float32. The switch is not saved.

    Arguments are those of `keras.layers.Dense`.

    Attributes:
        fake_quantization: Quantization scheme, or None (the default) for no
            rounding.
    """

    fake_quantization: QuantizationScheme | None = None

    def assign(self, kernel: Any, bias: Any = None) -> None:
        """Sets the kernel `(in, units)` and, if the layer has one, the bias `(units,)`."""
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
