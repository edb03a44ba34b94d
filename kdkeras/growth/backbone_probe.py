"""What a backbone of Keras Hub says before and after growth."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdkeras.errors import InputError
from kdkeras.growth.certificate import batches_of

__all__ = ["backbone_outputs", "backbone_probe"]

_ROWS, _LENGTH = 16, 16


def backbone_probe(model: Any, probe: Any) -> tuple[dict[str, np.ndarray], str]:
    """Returns the inputs to compare on, and what they are.

    Args:
        model: The old backbone.
        probe: Its inputs by name, as its preprocessor gives them, or None for
            random token ids without padding.

    Raises:
        InputError: If the probe lacks an input, or is something else.
    """
    names = sorted(tensor.name for tensor in model.inputs)
    if probe is None:
        return _random(model, names), "random token ids"
    if not isinstance(probe, dict) or sorted(probe) != names or not len(probe[names[0]]):
        given = sorted(probe) if isinstance(probe, dict) else type(probe).__name__
        raise InputError(
            f"The probe of a backbone must be its inputs by name, {names}, of a row at least. "
            f"Received: {given}. Give what its preprocessor makes of some hundred texts."
        )
    return {name: np.asarray(array, np.int32) for name, array in probe.items()}, "token ids"


def _random(model: Any, names: list[str]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shape = (_ROWS, min(_LENGTH, getattr(model, "max_sequence_length", _LENGTH)))
    made = {
        "token_ids": random.integers(model.vocabulary_size, size=shape),
        "segment_ids": np.zeros(shape),
        "padding_mask": np.ones(shape),
    }
    # T5's are called encoder_token_ids and decoder_token_ids.
    return {
        name: made[next(kind for kind in made if name.endswith(kind))].astype(np.int32)
        for name in names
    }


def backbone_outputs(model: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns the outputs by name, float64: `(tokens, d)` of real tokens, or `(N, d)` if pooled.

    With them `<name>_mean`, `(N, d)`: the mean over the tokens of a sequence.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for part in batches_of(batch):
        given = model(part, training=False)
        for name, tensor in (given if isinstance(given, dict) else {"output": given}).items():
            array = np.asarray(tensor, np.float64)
            if array.ndim == 3:
                mask = part[next(key for key in _masks(name, part))].astype(bool)
                weights = mask[..., None] / np.maximum(mask.sum(1), 1)[:, None, None]
                parts.setdefault(f"{name}_mean", []).append((array * weights).sum(1))
                array = array[mask]
            parts.setdefault(name, []).append(array)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _masks(output: str, batch: dict[str, np.ndarray]) -> list[str]:
    """The mask that belongs to an output: the encoder's, the decoder's, or the only one."""
    masks = [name for name in batch if name.endswith("padding_mask")]
    return [name for name in masks if output.startswith(name.split("_")[0])] or masks
