"""Quantising a TFLite file by recipes of ai-edge-quantizer."""

from __future__ import annotations

import logging
from typing import Any

from ai_edge_litert import schema_py_generated as schema

from kdkeras.errors import InputError, require_extra
from kdkeras.export.formats import ExportFormat
from kdkeras.layers.fake_quantization import BLOCK

__all__ = ["RECIPES", "apply_recipe", "require_quantizer"]

RECIPES = (ExportFormat.TFLITE_INT4, ExportFormat.TFLITE_INT8_WEIGHT_ONLY)
"""Formats that the converter cannot write."""


def require_quantizer() -> Any:
    """Imports `ai_edge_quantizer`.

    Raises:
        MissingExtraError: If it is not installed, naming the extra.
    """
    return require_extra("ai_edge_quantizer", "quantize")


def apply_recipe(content: bytes, item: ExportFormat) -> bytes:
    """Quantises a float32 TFLite file.

    | format | token table | dense kernels | inputs of dense layers |
    |---|---|---|---|
    | `tflite_int4` | int4, a scale for 32 numbers | int8, a scale a unit | int8 while it runs |
    | `tflite_int8_weight_only` | int8, a scale a row | int8, a scale a unit | float32 |

    A table whose width 32 does not divide has one int4 scale a row. The table
    of a static student comes as int8 in the weight-only format already.

    Args:
        content: The file; a table that is to be quantised is read by
            EMBEDDING_LOOKUP.
        item: One of `RECIPES`.

    Returns:
        The quantised file.

    Raises:
        InputError: If a table's width is odd, which int4 cannot pack.
        MissingExtraError: If ai-edge-quantizer is not installed.
    """
    require_quantizer()
    from ai_edge_quantizer import qtyping, quantizer

    operation, granularity = qtyping.TFLOperationName, qtyping.QuantGranularity
    rules = quantizer.Quantizer(content)
    widths = _table_widths(content)
    if item is ExportFormat.TFLITE_INT4:
        _refuse_odd(widths)
        whole = all(width % BLOCK == 0 for width in widths)
        scales = granularity.BLOCKWISE_32 if whole else granularity.CHANNELWISE
        rules.add_dynamic_config(".*", operation.EMBEDDING_LOOKUP, 4, scales)
        rules.add_dynamic_config(".*", operation.FULLY_CONNECTED, 8)
    else:
        if widths:
            rules.add_dynamic_config(".*", operation.EMBEDDING_LOOKUP, 8)
        rules.add_weight_only_config(".*", operation.FULLY_CONNECTED, 8)
    level = logging.root.level
    logging.root.setLevel(logging.ERROR)  # Warns of what is to be so.
    try:
        result = rules.quantize(enable_progress_bar=False, enable_progress_report=False)
    finally:
        logging.root.setLevel(level)
    return bytes(result.quantized_model)


def _table_widths(content: bytes) -> list[int]:
    """Columns of each table that EMBEDDING_LOOKUP reads."""
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
            "An int4 table must have an even width: two numbers are one byte. "
            f"Received: width {odd[0]}. Leave 'tflite_int4' out, or make a student of even width."
        )
