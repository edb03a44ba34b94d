"""A student whose new units fade in while it trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from kdkeras.errors import InputError
from kdkeras.layers import MaskedNorm, MaskedTransformerBlock, MaskLevel, TransformerBlock
from kdkeras.students.transformer import TransformerStudent

__all__ = ["MaskedTransformerStudent"]


@keras.saving.register_keras_serializable(package="kdkeras")
class MaskedTransformerStudent(TransformerStudent):
    """A `TransformerStudent` that counts its new units and layers by a mask from 0 to 1.

    What `kdkeras.growth.grow` makes by `MaskedGrowth` and `MaskedLayers`. At 0 it
    embeds as the student that it grew from, at 1 as a plain one of its own sizes,
    which `kdkeras.growth.unmask` makes of it; `kdkeras.growth.MaskSchedule` moves the
    mask in training.

    Args:
        *args: As for `TransformerStudent`.
        masked: The old sizes of what is masked: `hidden_dim`, `num_heads`,
            `head_size`, `intermediate_dim`.
        masked_layers: Numbers of the layers that are masked, from 0.
        **kwargs: As for `TransformerStudent`.

    Attributes:
        mask: How much new units count, from 0, at first, to 1.

    Raises:
        InputError: As `TransformerStudent`; if an old size is not below the new one or
            unknown, or there is no such layer.

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
        # Read by the layers' makers, which the constructor calls.
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
                    f"`masked` holds old sizes of {sizes}, below these. "
                    f"Received: {name}={size}. Let kdkeras.growth.grow make the student."
                )
        if not set(self.masked_layers) <= set(range(self.num_layers)):
            raise InputError(
                f"`masked_layers` must be below {self.num_layers}, the student's layers. "
                f"Received: {list(self.masked_layers)}. Let kdkeras.growth.grow make the student."
            )

    @property
    def mask(self) -> float:
        """How much new units count, from 0 to 1.

        Raises:
            InputError: When set to something else.
        """
        return float(self.mask_level.level.value.numpy())

    @mask.setter
    def mask(self, level: float) -> None:
        if not 0 <= level <= 1:
            raise InputError(
                f"`mask` must be from 0 to 1. Received: mask={level}. Use 1 to count all units."
            )
        self.mask_level.level.assign(level)

    def _make_norm(self) -> keras.layers.LayerNormalization:
        # The first layer that needs it.
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
        """Refuses: masks are of the whole student.

        Raises:
            InputError: Always.
        """
        raise InputError(
            f"A student is cut when its masks are gone. Received: masks at {self.mask:g}. "
            "Train them to 1, then kdkeras.growth.unmask(student)."
        )

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {
            **super().get_config(),
            "masked": dict(self.masked),
            "masked_layers": list(self.masked_layers),
        }
