"""Growing a model by a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

import keras
import numpy as np

from kdkeras.data import Vocabulary
from kdkeras.errors import InputError
from kdkeras.growth.axes import (
    LAYERS,
    STATIC,
    TRANSFORMER,
    ModelAxes,
    Values,
    assign_values,
    describe,
    is_backbone,
    model_values,
)
from kdkeras.growth.comparison import certify_growth, growth_probe
from kdkeras.growth.expand import deepen, widen
from kdkeras.growth.larger import (
    larger_backbone,
    larger_static,
    larger_transformer,
    old_values,
    refuse_unfinished,
)
from kdkeras.growth.layers_on_table import layers_on_table
from kdkeras.growth.masks import fill_masked
from kdkeras.growth.operators import NewLayer
from kdkeras.growth.plan import GrowthPlan
from kdkeras.growth.resolved_plan import ResolvedPlan, check_names
from kdkeras.students import StaticStudent, Student, TransformerStudent
from kdkeras.students.certificate import Step
from kdkeras.students.comparison import with_certificate

__all__ = ["grow", "new_layers"]

Grown = TypeVar("Grown", bound=keras.Model)


@overload
def grow(
    model: Student,
    plan: GrowthPlan,
    probe: Sequence[str] | dict[str, Any] | None = None,
    vocabulary: Vocabulary | None = None,
) -> Student: ...
@overload
def grow(
    model: Grown,
    plan: GrowthPlan,
    probe: dict[str, Any] | None = None,
    vocabulary: Vocabulary | None = None,
) -> Grown: ...
def grow(
    model: Any, plan: GrowthPlan, probe: Any = None, vocabulary: Vocabulary | None = None
) -> Any:
    """Makes a larger model from a trained one.

    Every weight of the new model is a product around the old weight,
    `F_k ... F_1 W E_1 ... E_k`. The old model is not modified.

    Args:
        model: A `StaticStudent`, a `TransformerStudent`, or one of the `keras_hub.models`
            backbones `BertBackbone`, `DistilBertBackbone`, `RobertaBackbone`,
            `XLMRobertaBackbone`, `T5Backbone`. The outputs of a grown backbone have its
            new hidden width: they are the old outputs times `E` of the hidden axis, which
            preserves every cosine if all units are copied equally often. (The logits of a
            head that is tied to the token table change by a constant factor.)
        plan: The new sizes and the operators.
        probe: The inputs that the two models are compared on: a few hundred real texts, or
            `{"token_ids": (N, L), "padding_mask": (N, L)}`; for a backbone its inputs by
            name. Default: random token ids.
        vocabulary: The old vocabulary of a backbone, which does not store it. Required
            only if the plan has a new vocabulary.

    Returns:
        A new model of the same kind (a static student that gets layers becomes a
        `TransformerStudent`). Its `certificate` attribute, a
        `kdkeras.students.Certificate`, describes what was preserved and what the new
        model costs.

    Raises:
        InputError: If the plan does not fit the model, a size is impossible or smaller
            than before, or the plan has `keeps_function=True` and the function changed.

    Example:
    >>> from kdkeras.students import TransformerStudent
    >>> student = TransformerStudent(50, 8, 1, 16, 2, 32)
    >>> larger = grow(student, GrowthPlan(sizes={"hidden_dim": 32, "num_layers": 2}))
    >>> larger.hidden_dim, larger.certificate.keeps_function
    (32, True)
    """
    axes = describe(model)
    refuse_unfinished(model)
    check_names(model, plan)
    inputs = growth_probe(model, probe)
    resolved = ResolvedPlan.of(model, axes, plan, vocabulary)
    old = old_values(model)
    if isinstance(model, StaticStudent):
        grown, steps = _grow_static(model, plan, resolved, old)
    elif is_backbone(model):
        grown, steps = _grow_backbone(model, axes, plan, resolved, old)
    else:
        grown, steps = _grow_transformer(model, plan, resolved, old)
    certificate = certify_growth((model, grown), plan, resolved, steps, inputs, probe)
    if plan.keeps_function and not certificate.keeps_function:
        raise InputError(
            "With keeps_function=True, the grown model must give the same embeddings. Received: "
            f"an error of {certificate.maximum_error:.1e}, above {certificate.tolerance:.1e}. "
            "Grow in float32, increase tolerance=..., or use keeps_function=False."
        )
    return with_certificate(grown, certificate)


def _grow_transformer(
    model: TransformerStudent, plan: GrowthPlan, resolved: ResolvedPlan, old: Values
) -> tuple[TransformerStudent, tuple[Step, ...]]:
    layers, steps = new_layers(model.num_layers, plan)
    masked = [number for number, layer in enumerate(layers) if layer.masked]
    grown, old = larger_transformer(model, plan, resolved, old, masked)
    wide = widen(old, TRANSFORMER, resolved.maps, resolved.from_above)
    wide = fill_masked(wide, old, TRANSFORMER, resolved, plan)
    assign_values(grown, deepen(wide, TRANSFORMER, layers, model_values(grown)))
    return grown, (*resolved.steps, *steps)


def _grow_backbone(
    model: Any, axes: ModelAxes, plan: GrowthPlan, resolved: ResolvedPlan, old: Values
) -> tuple[Any, tuple[Step, ...]]:
    layers, steps = new_layers(model.num_layers, plan)
    if any(layer.masked for layer in layers):
        raise InputError(
            "Masks are only supported by kdkeras students. Received: depth=MaskedLayers() for a "
            "KerasHub backbone. Use IdentityBlocks()."
        )
    grown = larger_backbone(model, resolved, len(layers))
    wide = widen(old, axes, resolved.maps, resolved.from_above)
    assign_values(grown, deepen(wide, axes, layers, {}))
    return grown, (*resolved.steps, *steps)


def new_layers(num_layers: int, plan: GrowthPlan) -> tuple[list[NewLayer], tuple[Step, ...]]:
    """Returns the origin of each layer of the grown model, and the operator's entry.

    Raises:
        InputError: If the operator changes the function although the plan requires that
            it is preserved.
    """
    new = plan.sizes.get(LAYERS, num_layers)
    if new == num_layers:
        return [NewLayer(layer) for layer in range(num_layers)], ()
    depth = plan.depth
    if plan.keeps_function and not depth.keeps_function:
        raise InputError(
            "With keeps_function=True, every operator must preserve the function. Received: "
            f"depth={depth.name}(). Use IdentityBlocks(), or keeps_function=False."
        )
    step = Step(
        size=LAYERS,
        operator=depth.name,
        before=num_layers,
        after=new,
        keeps_function=depth.keeps_function,
    )
    return depth.layers(num_layers, new), (step,)


def _grow_static(
    model: StaticStudent, plan: GrowthPlan, resolved: ResolvedPlan, old: Values
) -> tuple[Student, tuple[Step, ...]]:
    if resolved.masked:
        raise InputError(
            "Masks are only supported by Transformers. Received: MaskedGrowth for the table of a "
            "static student. Use ZeroPadding(), which preserves the function at any size."
        )
    values = widen(old, STATIC, resolved.maps)
    if resolved.rows is not None:
        # The pieces of a new token are summed with their token weights.
        weighted = np.exp(old["token_weight.table"]) * old["token_embedding.table"]
        rows = widen({"token_embedding.table": weighted}, STATIC, resolved.maps)
        values["token_embedding.table"] = np.where(
            resolved.rows.composed[:, None],
            rows["token_embedding.table"] / np.exp(values["token_weight.table"]),
            values["token_embedding.table"],
        )
    if LAYERS in plan.sizes:
        layered, step = layers_on_table(model, plan, resolved, values)
        return layered, (*resolved.steps, step)
    grown = larger_static(model, plan, resolved)
    assign_values(grown, values)
    return grown, resolved.steps
