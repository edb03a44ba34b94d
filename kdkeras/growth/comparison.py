"""Comparing a grown model with the model that it grew from."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdkeras.errors import InputError
from kdkeras.growth.axes import EMBEDDING, HIDDEN, MAIN, VOCABULARY, describe, is_backbone
from kdkeras.growth.expand import widening_flops
from kdkeras.growth.larger import old_values
from kdkeras.growth.plan import GrowthPlan
from kdkeras.growth.resolved_plan import ResolvedPlan
from kdkeras.students import Certificate, StaticStudent
from kdkeras.students.certificate import Step
from kdkeras.students.comparison import (
    TOKEN_IDS,
    Comparison,
    batches_of,
    certify,
    compare,
    embed,
    own_texts_drift,
    probe_batch,
)

__all__ = ["certify_growth", "growth_probe"]

_RANDOM_EXAMPLES, _RANDOM_LENGTH = 16, 16


def growth_probe(model: Any, probe: Any) -> tuple[dict[str, np.ndarray], str]:
    """Returns the inputs to compare two models on, and the kind of the probe.

    Args:
        model: The old model.
        probe: For a student: texts, `{"token_ids", "padding_mask"}`, or None for random
            token ids. For a backbone: its inputs by name, as its preprocessor returns
            them, or None for random token ids without padding.

    Raises:
        InputError: If the probe is malformed.
    """
    if not is_backbone(model):
        return probe_batch(model, probe)
    names = sorted(tensor.name for tensor in model.inputs)
    if probe is None:
        return _random_inputs(model, names), "random token ids"
    if not isinstance(probe, dict) or sorted(probe) != names or not len(probe[names[0]]):
        given = sorted(probe) if isinstance(probe, dict) else type(probe).__name__
        raise InputError(
            f"The probe of a backbone must be its inputs by name, {names}, with at least one row. "
            f"Received: {given}. Apply its preprocessor to a few hundred texts."
        )
    return {name: np.asarray(array, np.int32) for name, array in probe.items()}, "token ids"


def _random_inputs(model: Any, names: list[str]) -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    shape = (_RANDOM_EXAMPLES, min(_RANDOM_LENGTH, getattr(model, "max_sequence_length", 16)))
    made = {
        TOKEN_IDS: random.integers(model.vocabulary_size, size=shape),
        "segment_ids": np.zeros(shape),
        "padding_mask": np.ones(shape),
    }
    # The names of T5's inputs start with encoder_ and decoder_.
    return {
        name: made[next(kind for kind in made if name.endswith(kind))].astype(np.int32)
        for name in names
    }


def certify_growth(
    models: tuple[Any, Any],
    plan: GrowthPlan,
    resolved: ResolvedPlan,
    steps: tuple[Step, ...],
    inputs: tuple[dict[str, np.ndarray], str],
    probe: Any,
) -> Certificate:
    """Measures what growth changed.

    Args:
        models: The old and the new model.
        plan: The plan.
        resolved: How each axis grew.
        steps: One entry per operator.
        inputs: The inputs to compare on, and their kind.
        probe: The probe that the user passed.
    """
    batch, source = inputs
    own = plan.vocabulary is not None and source == "texts"
    return certify(
        models,
        steps,
        _compare(models, batch, plan, resolved),
        plan.tolerance,
        inputs,
        text_cosine_drift=own_texts_drift(*models, probe) if own else None,
        flops_growth=_growth_flops(*models, resolved),
    )


def _growth_flops(model: Any, grown: Any, resolved: ResolvedPlan) -> int:
    products = widening_flops(old_values(model), describe(model), resolved.maps)
    if isinstance(model, StaticStudent) and not isinstance(grown, StaticStudent):
        # Table and projection are rotated into the hidden width.
        rows = resolved.sizes[VOCABULARY] + grown.output_dim
        products += 2 * rows * resolved.sizes[EMBEDDING] * grown.hidden_dim
    return products


def _compare(
    models: tuple[Any, Any], batch: dict[str, np.ndarray], plan: GrowthPlan, resolved: ResolvedPlan
) -> Comparison:
    model, grown = models
    new_batch = _with_new_ids(batch, plan, resolved)
    if not is_backbone(model):
        return compare(embed(model, batch), embed(grown, new_batch))
    before, after = _backbone_outputs(model, batch), _backbone_outputs(grown, new_batch)
    expand = resolved.maps[HIDDEN, MAIN].expand
    found = {name: compare(array @ expand, after[name]) for name, array in before.items()}
    return Comparison(
        max(one.maximum_error for one in found.values()),
        max(one.largest for one in found.values()),
        np.concatenate([one.drifts for name, one in found.items() if name.endswith("_mean")]),
    )


def _with_new_ids(
    batch: dict[str, np.ndarray], plan: GrowthPlan, resolved: ResolvedPlan
) -> dict[str, np.ndarray]:
    """Returns the batch with the ids of the new vocabulary."""
    if resolved.rows is None or plan.vocabulary is None:
        return batch
    places = resolved.rows.places
    new = np.where(places < 0, plan.vocabulary.unknown_id, places).astype(np.int32)
    return {name: new[ids] if name.endswith(TOKEN_IDS) else ids for name, ids in batch.items()}


def _backbone_outputs(model: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns a backbone's outputs by name, float64.

    `(tokens, d)` without padding, or `(N, d)` for a pooled output. For each sequence
    output there is also `<name>_mean`, `(N, d)`, the mean over its tokens.
    """
    parts: dict[str, list[np.ndarray]] = {}
    for part in batches_of(batch):
        given = model(part, training=False)
        for name, tensor in (given if isinstance(given, dict) else {"output": given}).items():
            array = np.asarray(tensor, np.float64)
            if array.ndim == 3:
                mask = part[_mask_of(name, part)].astype(bool)
                weights = mask[..., None] / np.maximum(mask.sum(1), 1)[:, None, None]
                parts.setdefault(f"{name}_mean", []).append((array * weights).sum(1))
                array = array[mask]
            parts.setdefault(name, []).append(array)
    return {name: np.concatenate(arrays) for name, arrays in parts.items()}


def _mask_of(output: str, batch: dict[str, np.ndarray]) -> str:
    """Returns the name of an output's mask: the encoder's, the decoder's, or the only one."""
    masks = [name for name in batch if name.endswith("padding_mask")]
    return next((name for name in masks if output.startswith(name.split("_")[0])), masks[0])
