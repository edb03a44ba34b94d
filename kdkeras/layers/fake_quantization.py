"""Fake quantization: rounds float32 tensors in the same way as exported files do."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from keras import ops

from kdkeras.errors import InputError

__all__ = [
    "BLOCK",
    "QuantizationScheme",
    "quantized_activations",
    "quantized_kernel",
    "quantized_rows",
    "read_scheme",
]

BLOCK = 32
"""Number of values of a table row that share a scale in int4."""

# Avoids division by zero in rows of zeros.
_MIN_RANGE = 1e-9


class QuantizationScheme(StrEnum):
    """Number format of the token table. Dense kernels are int8 in both schemes."""

    INT8 = "int8"
    INT4 = "int4"


def read_scheme(name: str | None) -> QuantizationScheme | None:
    """Returns the scheme of that name, or None for None.

    Raises:
        InputError: If the name is unknown.
    """
    if name is None:
        return None
    known = [str(scheme) for scheme in QuantizationScheme]
    if name not in known:
        raise InputError(
            f"A quantization scheme must be one of {known}. Received: {name!r}. "
            "Use 'int4' for the smallest file."
        )
    return QuantizationScheme(name)


def quantized_rows(rows: Any, scheme: str) -> Any:
    """Rounds the rows of a table to the values that an exported file stores.

    Formula, for each row (int8) or each `BLOCK` values of a row (int4; for the
    whole row if `BLOCK` does not divide its width):

    ```
    rounded = scale * clip(round(row / scale), low, high)
    int8: scale = max|row| / 127,               low, high = -127, 127
    int4: scale = bfloat16(max|block| / 7),     low, high = -8, 7
    ```

    Args:
        rows: `(..., d)` float.
        scheme: `"int8"` or `"int4"`.

    Returns:
        `(..., d)` float32. The gradient is that of the identity
        (straight-through).

    References:
        Bengio et al. (2013), arXiv:1308.3432, for the straight-through
        gradient.
    """
    rows = ops.cast(rows, "float32")
    if scheme == QuantizationScheme.INT8:
        return _straight_through(rows, _symmetric(rows, axis=-1, low=-127, high=127))
    width = rows.shape[-1]
    if width % BLOCK:
        return _straight_through(rows, _symmetric(rows, axis=-1, low=-8, high=7))
    shape = ops.shape(rows)
    blocks = ops.reshape(rows, (*shape[:-1], width // BLOCK, BLOCK))
    rounded = _symmetric(blocks, axis=-1, low=-8, high=7, half=True)
    return _straight_through(rows, ops.reshape(rounded, shape))


def quantized_kernel(kernel: Any) -> Any:
    """Rounds a kernel `(inputs, units)` to int8 like `quantized_rows`, with one scale per unit."""
    kernel = ops.cast(kernel, "float32")
    return _straight_through(kernel, _symmetric(kernel, axis=0, low=-127, high=127))


def quantized_activations(inputs: Any) -> Any:
    """Rounds the inputs of a dense layer as LiteRT does at run time.

    Each row is rounded to 256 equally spaced values from `min(row, 0)` to
    `max(row, 0)`, one of which is 0.

    Args:
        inputs: `(..., d)` float.

    Returns:
        `(..., d)` float32. The gradient is that of the identity
        (straight-through).
    """
    inputs = ops.cast(inputs, "float32")
    low = ops.minimum(ops.min(inputs, axis=-1, keepdims=True), 0.0)
    high = ops.maximum(ops.max(inputs, axis=-1, keepdims=True), 0.0)
    scale = ops.maximum(high - low, _MIN_RANGE) / 255.0
    zero = ops.round(-128.0 - low / scale)
    steps = ops.clip(ops.round(inputs / scale) + zero, -128.0, 127.0)
    return _straight_through(inputs, (steps - zero) * scale)


def _symmetric(values: Any, axis: int, low: int, high: int, half: bool = False) -> Any:
    """Rounds to multiples of a scale; the largest absolute value becomes `high`."""
    largest = ops.max(ops.abs(values), axis=axis, keepdims=True)
    scale = ops.maximum(largest, _MIN_RANGE) / high
    if half:
        # Files store the scales of blocks as float16, rounded to bfloat16 before.
        scale = ops.cast(ops.cast(ops.cast(scale, "bfloat16"), "float16"), "float32")
    divisor = ops.where(scale > 0, scale, 1.0)
    return ops.clip(ops.round(values / divisor), low, high) * scale


def _straight_through(exact: Any, rounded: Any) -> Any:
    return exact + ops.stop_gradient(rounded - exact)
