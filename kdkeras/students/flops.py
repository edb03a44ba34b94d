"""The cost of a forward pass."""

from __future__ import annotations

from typing import Any

from kdkeras.layers.transformer_block import kernel_shapes
from kdkeras.students.static import StaticStudent
from kdkeras.students.transformer import TransformerStudent

__all__ = ["forward_flops"]


def forward_flops(model: Any, sequence_length: int) -> int:
    """Counts the floating-point operations for embedding one sentence.

    Each multiplication with its addition in a matrix product counts as two operations.
    Lookups, norms, softmax and GELU are not counted. A training step costs three times
    as much (the forward pass, and two products in the backward pass per forward product).

    Formula, for `L` tokens, `N` layers, hidden width `d`, feed-forward width `m` and
    output width `o`:

    ```
    Transformer: 2 L N (4 d^2 + 2 L d + 2 d m) + 2 L d + 2 d o
    static:      2 L d + 2 d o
    ```

    The terms are: queries, keys, values and output (`4 d^2`); attention scores and the
    weighted sum of the values (`2 L d`); the weighted mean (`2 L d`, only with token
    weights); the projection (`2 d o`, only if there is one). A kernel of shape `(d, o)`
    that is stored as a product of rank `r` counts `r (d + o)` in place of `d o`; a token
    table of rank `r` adds `2 L r d`.

    For a backbone, BERT's pooled output adds `2 d^2` and there is no mean. In T5 the
    heads have any size (`4 d i` with `i` units in all heads), a gate adds a third
    feed-forward kernel (`3 d m`), and the decoder reads and attends to as many tokens
    as the encoder.

    Args:
        model: A student or a `keras_hub.models` backbone.
        sequence_length: Number of tokens of the sentence.

    Returns:
        The number of operations for one sentence.
    """
    if isinstance(model, StaticStudent):
        return 2 * model.embedding_dim * (sequence_length + model.output_dim)
    if isinstance(model, TransformerStudent):
        return _transformer_flops(model, sequence_length)
    return _backbone_flops(model, sequence_length)


def _transformer_flops(model: TransformerStudent, length: int) -> int:
    width, ranks = model.hidden_dim, model.kernel_ranks or {}
    shapes = kernel_shapes(width, model.intermediate_dim)
    layer = sum(_multiplications(*shape, ranks.get(name)) for name, shape in shapes.items())
    layer += 2 * length * width
    mean = 2 * length * width if model.token_weights else 0
    table = 2 * length * model.table_rank * width if model.table_rank else 0
    projection = 0
    if model.projection is not None:
        projection = 2 * _multiplications(width, model.output_dim, ranks.get("projection"))
    return 2 * length * model.num_layers * layer + table + mean + projection


def _backbone_flops(model: Any, length: int) -> int:
    width = model.hidden_dim
    # T5 calls the size of a head `key_value_dim`; its heads need not fill the hidden width.
    head_size = getattr(model, "key_value_dim", None) or width // model.num_heads
    inner = model.num_heads * head_size
    attention = 4 * width * inner + 2 * length * inner
    kernels = 3 if getattr(model, "use_gated_activation", False) else 2
    encoder = attention + kernels * width * model.intermediate_dim
    # Each decoder layer has self-attention and cross-attention.
    decoder = encoder + attention if hasattr(model, "decoder_transformer_layers") else 0
    pooled = 2 * width**2 if hasattr(model, "pooled_dense") else 0
    return 2 * length * model.num_layers * (encoder + decoder) + pooled


def _multiplications(inputs: int, outputs: int, rank: int | None) -> int:
    """Multiplications of one vector with a kernel, or with its two factors."""
    return inputs * outputs if rank is None else rank * (inputs + outputs)
