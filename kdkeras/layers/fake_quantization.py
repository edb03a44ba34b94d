"""What an exported file does to numbers, done to float32 tensors: fake quantisation."""

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
"""Numbers of a table row that share a scale in int4."""

# Of a row of zeros, where every scale will do.
_LEAST = 1e-9


class QuantizationScheme(StrEnum):
    """How many bits a number of the token table has; dense kernels have eight."""

    INT8 = "int8"
    INT4 = "int4"


def read_scheme(name: str | None) -> QuantizationScheme | None:
    """Checks the name of a scheme.

    Raises:
        InputError: If it is unknown.
    """
    if name is None:
        return None
    known = [str(scheme) for scheme in QuantizationScheme]
    if name not in known:
        raise InputError(
            f"A quantisation scheme must be one of {known}. Received: {name!r}. "
            "Use 'int4' for the smallest file."
        )
    return QuantizationScheme(name)


def quantized_rows(rows: Any, scheme: str) -> Any:
    """Rounds rows of a table to what a file holds of them.

    Formula, for a row (int8) or `BLOCK` numbers of it (int4; the row where
    `BLOCK` does not divide its width):

    ```
    rounded = scale * clip(round(row / scale), low, high)
    int8: scale = max|row| / 127,               low, high = -127, 127
    int4: scale = bfloat16(max|block| / 7),     low, high = -8, 7
    ```

    Args:
        rows: `(..., d)` float.
        scheme: `"int8"` or `"int4"`.

    Returns:
        `(..., d)` float32. Gradients go through as if nothing was rounded.

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
    """Rounds a kernel `(inputs, units)` to int8 with one scale a unit, as `quantized_rows`."""
    kernel = ops.cast(kernel, "float32")
    return _straight_through(kernel, _symmetric(kernel, axis=0, low=-127, high=127))


def quantized_activations(inputs: Any) -> Any:
    """Rounds what enters a dense layer as LiteRT does while it runs.

    Formula, for each row: 256 steps from `min(row, 0)` to `max(row, 0)`, zero
    on one of them.

    Args:
        inputs: `(..., d)` float.

    Returns:
        `(..., d)` float32. Gradients go through as if nothing was rounded.
    """
    inputs = ops.cast(inputs, "float32")
    low = ops.minimum(ops.min(inputs, axis=-1, keepdims=True), 0.0)
    high = ops.maximum(ops.max(inputs, axis=-1, keepdims=True), 0.0)
    scale = ops.maximum(high - low, _LEAST) / 255.0
    zero = ops.round(-128.0 - low / scale)
    steps = ops.clip(ops.round(inputs / scale) + zero, -128.0, 127.0)
    return _straight_through(inputs, (steps - zero) * scale)


def _symmetric(values: Any, axis: int, low: int, high: int, half: bool = False) -> Any:
    """Rounds to multiples of a scale by which the largest value is `high`."""
    largest = ops.max(ops.abs(values), axis=axis, keepdims=True)
    scale = ops.maximum(largest, _LEAST) / high
    if half:
        # Files hold scales of blocks as float16 with the digits of bfloat16.
        scale = ops.cast(ops.cast(ops.cast(scale, "bfloat16"), "float16"), "float32")
    divisor = ops.where(scale > 0, scale, 1.0)
    return ops.clip(ops.round(values / divisor), low, high) * scale


def _straight_through(exact: Any, rounded: Any) -> Any:
    return exact + ops.stop_gradient(rounded - exact)
