"""Quantizes TFLite files with ai-edge-quantizer."""

from __future__ import annotations

import logging
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from kdkeras.errors import InputError, require_extra
from kdkeras.export.formats import ExportFormat
from kdkeras.layers.fake_quantization import BLOCK

__all__ = ["RECIPES", "apply_recipe", "require_quantizer"]

RECIPES = (ExportFormat.TFLITE_INT4, ExportFormat.TFLITE_INT8_WEIGHT_ONLY)
"""Formats that the TFLite converter cannot write."""


def require_quantizer() -> Any:
    """Imports `ai_edge_quantizer`.

    Raises:
        MissingExtraError: If it is not installed. The message names the extra.
    """
    return require_extra("ai_edge_quantizer", "quantize")


def apply_recipe(content: bytes, item: ExportFormat) -> bytes:
    """Quantizes a float32 TFLite file.

    | format | token table | dense kernels | inputs of dense layers |
    |---|---|---|---|
    | `tflite_int4` | int4, one scale per 32 values | int8, one scale per unit | int8 at run time |
    | `tflite_int8_weight_only` | int8, one scale per row | int8, one scale per unit | float32 |

    An int4 table whose width is not a multiple of 32 has one scale per row. In
    the weight-only format, the table of a static student is already int8.

    Args:
        content: The file. The tables to quantize are read by EMBEDDING_LOOKUP.
        item: One of `RECIPES`.

    Returns:
        The quantized file.

    Raises:
        InputError: If the width of an int4 table is odd.
        MissingExtraError: If ai-edge-quantizer is not installed.
    """
    require_quantizer()
    from ai_edge_quantizer import qtyping, quantizer

    operation, granularity = qtyping.TFLOperationName, qtyping.QuantGranularity
    rules = quantizer.Quantizer(content)
    widths = _table_widths(content)
    if item is ExportFormat.TFLITE_INT4:
        _refuse_odd(widths)
        divisible = all(width % BLOCK == 0 for width in widths)
        scales = granularity.BLOCKWISE_32 if divisible else granularity.CHANNELWISE
        rules.add_dynamic_config(".*", operation.EMBEDDING_LOOKUP, 4, scales)
        rules.add_dynamic_config(".*", operation.FULLY_CONNECTED, 8)
    else:
        if widths:
            rules.add_dynamic_config(".*", operation.EMBEDDING_LOOKUP, 8)
        rules.add_weight_only_config(".*", operation.FULLY_CONNECTED, 8)
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # Hides warnings about intended settings.
    try:
        result = rules.quantize(enable_progress_bar=False, enable_progress_report=False)
    finally:
        logging.root.setLevel(level)
    return bytes(result.quantized_model)


def _table_widths(content: bytes) -> list[int]:
    """Returns the number of columns of each table that EMBEDDING_LOOKUP reads."""
    model = schema.ModelT.InitFromPackedBuf(content, 0)
    codes = [max(code.builtinCode, code.deprecatedBuiltinCode) for code in model.operatorCodes]
    graph = model.subgraphs[0]
    return [
        int(graph.tensors[operator.inputs[1]].shape[1])
        for operator in graph.operators
        if codes[operator.opcodeIndex] == schema.BuiltinOperator.EMBEDDING_LOOKUP
    ]


def _refuse_odd(widths: list[int]) -> None:
    odd = [width for width in widths if width % 2]
    if odd:
        raise InputError(
            "An int4 table must have an even width, because two values share a byte. "
            f"Received: width {odd[0]}. Omit 'tflite_int4', or create a student of even width."
        )
