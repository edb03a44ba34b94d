"""Measuring what growth did to a model."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdkeras.growth.axes import EMBEDDING, HIDDEN, MAIN, VOCABULARY
from kdkeras.growth.backbone_probe import backbone_outputs
from kdkeras.growth.certificate import (
    Certificate,
    Comparison,
    Step,
    compare,
    embed,
    own_texts_drift,
)
from kdkeras.growth.described import describe, is_backbone
from kdkeras.growth.expand import widening_flops
from kdkeras.growth.flops import forward_flops
from kdkeras.growth.larger import old_values
from kdkeras.growth.maps import Width
from kdkeras.growth.plan import GrowthPlan
from kdkeras.students import StaticStudent

__all__ = ["certify", "certify_products", "with_certificate"]

IDS = "token_ids"
"""How the inputs that are token ids are called, or end."""
PRODUCTS = 1e-6
"""What products multiplied out may change, relative to the largest number, or to 1."""


def with_certificate(grown: Any, certificate: Certificate) -> Any:
    """Returns the model with its certificate beside it, neither tracked nor saved."""
    object.__setattr__(grown, "certificate", certificate)
    return grown


def certify(
    model: Any,
    grown: Any,
    plan: GrowthPlan,
    width: Width,
    steps: tuple[Step, ...],
    probe: tuple[dict[str, np.ndarray], str, Any],
) -> Certificate:
    """Measures what growth did to a model.

    Args:
        model: The old model.
        grown: The new one.
        plan: By which plan.
        width: The plan's axes.
        steps: What each operator did.
        probe: Token ids, what they are, and what the caller gave.
    """
    batch, source, given = probe
    found = _compare(model, grown, batch, _read_anew(batch, width, plan), width)
    own = plan.vocabulary is not None and source == "texts"
    return _certificate(
        (model, grown),
        steps,
        found,
        plan.tolerance,
        (batch, source),
        text_cosine_drift=own_texts_drift(model, grown, given) if own else None,
        flops_growth=_growth_flops(model, grown, width),
    )


def certify_products(
    model: Any, made: Any, steps: tuple[Step, ...], probe: tuple[dict[str, np.ndarray], str]
) -> Certificate:
    """Measures what storing kernels as products, or multiplying them out, did to a student.

    Args:
        model: The old student.
        made: The new one.
        steps: What was done to each product.
        probe: Token ids, and what they are.
    """
    found = compare(embed(model, probe[0]), embed(made, probe[0]))
    return _certificate((model, made), steps, found, PRODUCTS, probe)


def _certificate(
    models: tuple[Any, Any],
    steps: tuple[Step, ...],
    found: Comparison,
    tolerance: float,
    probe: tuple[dict[str, np.ndarray], str],
    text_cosine_drift: float | None = None,
    flops_growth: int = 0,
) -> Certificate:
    (model, grown), (batch, source) = models, probe
    rows, tokens = next(array for name, array in batch.items() if name.endswith(IDS)).shape
    tolerance *= max(found.largest, 1.0)
    return Certificate(
        steps=steps,
        keeps_function=found.maximum_error <= tolerance,
        maximum_error=found.maximum_error,
        tolerance=tolerance,
        cosine_drift=float(found.drifts.max()),
        mean_cosine_drift=float(found.drifts.mean()),
        probe=source,
        probe_size=int(rows),
        text_cosine_drift=text_cosine_drift,
        parameters_before=model.count_params(),
        parameters_after=grown.count_params(),
        flops_before=forward_flops(model, int(tokens)),
        flops_after=forward_flops(grown, int(tokens)),
        flops_tokens=int(tokens),
        flops_growth=flops_growth,
    )


def _growth_flops(model: Any, grown: Any, width: Width) -> int:
    products = widening_flops(old_values(model), describe(model), width.maps)
    if isinstance(model, StaticStudent) and not isinstance(grown, StaticStudent):
        # Table and projection are turned into the width of the layers.
        rows = width.sizes[VOCABULARY] + grown.output_dim
        products += 2 * rows * width.sizes[EMBEDDING] * grown.hidden_dim
    return products


def _read_anew(
    batch: dict[str, np.ndarray], width: Width, plan: GrowthPlan
) -> dict[str, np.ndarray]:
    """The batch, its tokens as the new vocabulary counts them."""
    if width.rows is None or plan.vocabulary is None:
        return batch
    places = width.rows.places
    new = np.where(places < 0, plan.vocabulary.unknown_id, places).astype(np.int32)
    return {name: new[ids] if name.endswith(IDS) else ids for name, ids in batch.items()}


def _compare(
    model: Any,
    grown: Any,
    batch: dict[str, np.ndarray],
    new_batch: dict[str, np.ndarray],
    width: Width,
) -> Comparison:
    if not is_backbone(model):
        return compare(embed(model, batch), embed(grown, new_batch))
    before, after = backbone_outputs(model, batch), backbone_outputs(grown, new_batch)
    expand = width.maps[HIDDEN, MAIN].expand
    found = {name: compare(array @ expand, after[name]) for name, array in before.items()}
    return Comparison(
        max(one.maximum_error for one in found.values()),
        max(one.largest for one in found.values()),
        np.concatenate([one.drifts for name, one in found.items() if name.endswith("_mean")]),
    )
