"""What a forward pass costs."""

from __future__ import annotations

from typing import Any

from kdkeras.growth.described import is_backbone
from kdkeras.growth.sizes import sizes_of
from kdkeras.layers.transformer_block import kernel_shapes
from kdkeras.students import StaticStudent

__all__ = ["forward_flops"]


def forward_flops(model: Any, sequence_length: int) -> int:
    """Counts the floating point operations of embedding one sentence.

    Two for each multiplication with its addition in a matrix product; lookups,
    norms, softmax and GELU are not counted. A training step costs three times
    as much (forward, and two products backward for each forward).

    Formula, for `L` tokens, `N` layers, width `d`, feed-forward width `m` and
    output width `o`:

    ```
    Transformer: 2 L N (4 d^2 + 2 L d + 2 d m) + 2 L d + 2 d o
    static:      2 L d + 2 d o
    ```

    (queries, keys, values and output `4 d^2`; scores and their sum `2 L d`; the
    mean `2 L d`, left out where tokens have no weight; `2 d o` only with a projection).
    A kernel `d o` that is stored as a product of rank `r` counts `r (d + o)`, a table
    of rank `r` another `2 L r d`.

    A backbone is counted likewise, without the mean and with BERT's pooled output
    (`2 d^2`); in T5 heads of any size (`4 d i` with `i` units in all heads), a gate
    (`3 d m`), and a decoder that reads and attends to as many tokens.

    Args:
        model: A student or a backbone.
        sequence_length: Tokens of the sentence.

    Returns:
        The number for one sentence.
    """
    sizes, length = sizes_of(model), sequence_length
    if is_backbone(model):
        return _backbone_flops(model, sizes, length)
    out = model.output_dim
    if isinstance(model, StaticStudent):
        return 2 * length * sizes["embedding_dim"] + 2 * sizes["embedding_dim"] * out
    width, ranks = sizes["hidden_dim"], model.kernel_ranks or {}
    shapes = kernel_shapes(width, sizes["intermediate_dim"])
    layer = sum(_products(*shape, ranks.get(name)) for name, shape in shapes.items())
    layer += 2 * length * width
    mean = 2 * length * width if model.token_weights else 0
    table = 2 * length * model.table_rank * width if model.table_rank else 0
    projection = 0
    if model.projection is not None:
        projection = 2 * _products(width, out, ranks.get("projection"))
    return 2 * length * sizes["num_layers"] * layer + table + mean + projection


def _backbone_flops(model: Any, sizes: dict[str, int], length: int) -> int:
    width, inner = sizes["hidden_dim"], sizes["num_heads"] * sizes["head_size"]
    attention = 4 * width * inner + 2 * length * inner
    kernels = 3 if getattr(model, "use_gated_activation", False) else 2
    encoder = attention + kernels * width * sizes["intermediate_dim"]
    # Each decoder layer attends twice.
    decoder = encoder + attention if hasattr(model, "decoder_transformer_layers") else 0
    pooled = 2 * width**2 if hasattr(model, "pooled_dense") else 0
    return 2 * length * sizes["num_layers"] * (encoder + decoder) + pooled


def _products(inputs: int, outputs: int, rank: int | None) -> int:
    """Multiplications of one vector with a kernel, or with both that it is stored as."""
    return inputs * outputs if rank is None else rank * (inputs + outputs)
