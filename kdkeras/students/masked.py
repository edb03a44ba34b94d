"""A grown Transformer student whose new units fade in during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kdkeras.errors import InputError
from kdkeras.layers import TransformerBlock
from kdkeras.layers.masked_block import MaskedTransformerBlock
from kdkeras.layers.masks import MaskedNorm, MaskLevel
from kdkeras.students.transformer import TransformerStudent

__all__ = ["MaskedTransformerStudent"]


@keras.saving.register_keras_serializable(package="kdkeras")
class MaskedTransformerStudent(TransformerStudent):
    """A `TransformerStudent` that multiplies new units and layers by a mask from 0 to 1.

    `kdkeras.growth.grow` creates it for `MaskedGrowth` and `MaskedLayers`. With mask
    0 its embeddings equal those of the student it was grown from. With mask 1 they
    equal those of a `TransformerStudent` of its sizes, which
    `kdkeras.growth.unmask` returns. `kdkeras.growth.MaskSchedule` changes the mask
    during training.

    Args:
        *args: As for `TransformerStudent`.
        masked: Old sizes of the axes with new units, by name: `hidden_dim`,
            `num_heads`, `head_size`, `intermediate_dim`.
        masked_layers: Indices of the new layers, from 0. Default none.
        **kwargs: As for `TransformerStudent`.

    Attributes:
        mask: Factor of new units and layers, from 0 (initially) to 1.

    Raises:
        InputError: As for `TransformerStudent`; or if an old size is unknown or not
            below the new size, or a layer does not exist.

    References:
        Yao et al. (2023), arXiv:2305.02869.
    """

    def __init__(
        self,
        *args: Any,
        masked: Mapping[str, int],
        masked_layers: Sequence[int] = (),
        **kwargs: Any,
    ) -> None:
        # `_make_norm` and `_make_block`, which the constructor calls, read these.
        self.masked = {name: int(size) for name, size in masked.items()}
        self.masked_layers = [int(number) for number in masked_layers]
        super().__init__(*args, **kwargs)
        self._check_masks()

    def _check_masks(self) -> None:
        sizes = {
            "hidden_dim": self.hidden_dim,
            "num_heads": self.num_heads,
            "head_size": self.hidden_dim // self.num_heads,
            "intermediate_dim": self.intermediate_dim,
        }
        for name, size in self.masked.items():
            if not 1 <= size < sizes.get(name, 0):
                raise InputError(
                    f"`masked` must have old sizes, below the new sizes {sizes}. "
                    f"Received: {name}={size}. Use kdkeras.growth.grow to create the student."
                )
        if not set(self.masked_layers) <= set(range(self.num_layers)):
            raise InputError(
                f"`masked_layers` must be below {self.num_layers}, the number of layers. Received: "
                f"{list(self.masked_layers)}. Use kdkeras.growth.grow to create the student."
            )

    @property
    def mask(self) -> float:
        """Factor of new units and layers, from 0 to 1.

        Raises:
            InputError: When set to a value out of range.
        """
        return float(self.mask_level.level.value.numpy())

    @mask.setter
    def mask(self, level: float) -> None:
        if not 0 <= level <= 1:
            raise InputError(
                f"`mask` must be from 0 to 1. Received: mask={level}. Use 1 for no mask."
            )
        self.mask_level.level.assign(level)

    def _make_norm(self) -> keras.layers.LayerNormalization:
        # Created here because this norm is the first layer that uses it.
        self.mask_level = MaskLevel(name="mask_level", dtype="float32")
        self.mask_level.build()
        if "hidden_dim" not in self.masked:
            return super()._make_norm()
        return MaskedNorm(
            self.mask_level,
            self.masked["hidden_dim"],
            epsilon=1e-12,
            dtype=self.dtype_policy,
            name="embedding_norm",
        )

    def _make_block(self, number: int) -> TransformerBlock:
        return MaskedTransformerBlock(
            **self._block_arguments(number),
            level=self.mask_level,
            masked=dict(self.masked),
            whole=number in self.masked_layers,
        )

    def truncated(self, num_layers: int) -> TransformerStudent:
        """Not supported.

        Raises:
            InputError: Always.
        """
        raise InputError(
            f"A masked student cannot be truncated. Received: masks at {self.mask:g}. "
            "Train them to 1, then call kdkeras.growth.unmask(student)."
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "masked": dict(self.masked),
            "masked_layers": list(self.masked_layers),
        }
