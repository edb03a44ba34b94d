"""A Transformer block that fades in its new units."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from kdkeras.layers.masks import MaskedNorm, as_level
from kdkeras.layers.transformer_block import TransformerBlock

__all__ = ["MaskedTransformerBlock", "units_of_heads"]


def units_of_heads(num_heads: int, head_size: int, masked: Mapping[str, int]) -> np.ndarray:
    """Returns `(num_heads * head_size,)` bool, True for old units of the concatenated heads."""
    heads = np.arange(num_heads) < masked.get("num_heads", num_heads)
    units = np.arange(head_size) < masked.get("head_size", head_size)
    return (heads[:, None] & units[None, :]).ravel()


@keras.saving.register_keras_serializable(package="kdkeras")
class MaskedTransformerBlock(TransformerBlock):
    """A `TransformerBlock` that multiplies its new units by a level from 0 to 1.

    At level 0 it computes the same as a block of the old sizes, at level 1 the
    same as a `TransformerBlock` of its own sizes (see
    `kdkeras.growth.MaskedGrowth`).

    Args:
        hidden_dim, num_heads, intermediate_dim: As for `TransformerBlock`.
        level: The `MaskLevel`.
        masked: Old sizes of the axes with new units, by name: `hidden_dim`,
            `num_heads`, `head_size`, `intermediate_dim`.
        whole: Whether the whole block is new. Its output is then
            `hidden + level * (block(hidden) - hidden)`. Default False.
        **kwargs: As for `TransformerBlock`.

    Call arguments:
        As for `TransformerBlock`.

    References:
        Yao et al. (2023), arXiv:2305.02869.
    """

    def __init__(
        self,
        hidden_dim: int,
        num_heads: int,
        intermediate_dim: int,
        *,
        level: Any,
        masked: Mapping[str, int],
        whole: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(hidden_dim, num_heads, intermediate_dim, **kwargs)
        self.level = as_level(level)
        self.masked = {name: int(size) for name, size in masked.items()}
        self.whole = bool(whole)
        if "hidden_dim" in self.masked:
            norm: dict[str, Any] = {
                "old_size": self.masked["hidden_dim"],
                "epsilon": self.layer_norm_epsilon,
                "dtype": self.dtype_policy,
            }
            self.attention_norm = MaskedNorm(self.level, name="attention_norm", **norm)
            self.output_norm = MaskedNorm(self.level, name="output_norm", **norm)

    def build(self, hidden_shape: tuple[int | None, ...]) -> None:
        """Creates the weights."""
        if not self.level.built:
            self.level.build()
        super().build(hidden_shape)

    def call(
        self,
        hidden: Any,
        padding_mask: Any,
        training: bool | None = None,
        return_attention: bool = False,
    ) -> Any:
        """Returns the block's output."""
        output = super().call(hidden, padding_mask, training, return_attention)
        if not self.whole:
            return output
        made, *others = output if return_attention else (output,)
        faded = hidden + ops.cast(self.level.level, made.dtype) * (made - hidden)
        return (faded, *others) if return_attention else faded

    def _projected(self, qkv: Any) -> Any:
        if not {"num_heads", "head_size"} & set(self.masked):
            return qkv
        size = self.hidden_dim // self.num_heads
        old = np.tile(units_of_heads(self.num_heads, size, self.masked), 3)
        return qkv * self.level.counts(old, qkv.dtype)

    def _score_scale(self, size: int, dtype: Any) -> Any:
        if "head_size" not in self.masked:
            return super()._score_scale(size, dtype)
        old = np.arange(size) < self.masked["head_size"]
        wide = "float64" if dtype == "float64" else "float32"
        return ops.cast(ops.rsqrt(ops.sum(self.level.counts(old, wide))), dtype)

    def _activated(self, units: Any) -> Any:
        if "intermediate_dim" not in self.masked:
            return units
        old = np.arange(self.intermediate_dim) < self.masked["intermediate_dim"]
        return units * self.level.counts(old, units.dtype)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "level": keras.saving.serialize_keras_object(self.level),
            "masked": self.masked,
            "whole": self.whole,
        }
