"""Growing a model by a plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar, overload

import keras
import numpy as np

from kdkeras.data import Vocabulary
from kdkeras.errors import InputError
from kdkeras.growth.axes import EMBEDDING, HEADS, HIDDEN, LAYERS, ModelAxes
from kdkeras.growth.backbone_probe import backbone_probe
from kdkeras.growth.certificate import (
    Step,
    probe_batch,
)
from kdkeras.growth.certifying import certify, with_certificate
from kdkeras.growth.depth import IdentityBlocks, NewLayer
from kdkeras.growth.described import describe, is_backbone
from kdkeras.growth.expand import Values, deepen, widen
from kdkeras.growth.larger import (
    assign_values,
    larger_backbone,
    larger_static,
    larger_transformer,
    model_values,
    old_values,
    refuse_unfinished,
    static_config,
)
from kdkeras.growth.maps import Width
from kdkeras.growth.masks import fill_masked
from kdkeras.growth.plan import GrowthPlan
from kdkeras.growth.sizes import check_names, transformer_sizes
from kdkeras.growth.student_axes import TRANSFORMER
from kdkeras.growth.table import transformer_values
from kdkeras.students import StaticStudent, Student, TransformerStudent

__all__ = ["grow", "new_layers"]


# As BERT's layers are drawn.
_SPREAD = 0.02

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
    """Makes a larger model out of a trained one.

    Every weight of the new model is a product with the old one in the
    middle, `F_k ... F_1 W E_1 ... E_k`. The old model stays as it is.

    Args:
        model: A `StaticStudent`, a `TransformerStudent`, or a
            `keras_hub.models` backbone: `BertBackbone`, `DistilBertBackbone`,
            `RobertaBackbone`, `XLMRobertaBackbone`, `T5Backbone`. The outputs
            of a grown backbone are as wide as it is: the old ones times `E` of
            the hidden axis, which keeps every cosine where it copies all units
            alike. (A head that is tied to the table of T5, which divides by
            the root of the width, must be divided by the root of the growth.)
        plan: What it grows to.
        probe: What the two are compared on: texts (real ones, some hundred),
            or `{"token_ids", "padding_mask"}`, for a backbone its inputs by
            name; random token ids if None.
        vocabulary: The old vocabulary of a backbone, which holds none; where
            the plan has a new one.

    Returns:
        A model of its own, whose `certificate` says what was kept.

    Raises:
        InputError: If the plan does not fit the model, asks for impossible
            sizes or smaller ones, or says that it keeps the function and does
            not; then nothing is returned.

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
    batch, source = (backbone_probe if is_backbone(model) else probe_batch)(model, probe)
    width = Width.of(model, axes, plan, vocabulary)
    old = old_values(model)
    if isinstance(model, StaticStudent):
        grown, steps = _grow_static(model, plan, width, old)
    elif is_backbone(model):
        grown, steps = _grow_backbone(model, axes, plan, width, old)
    else:
        grown, steps = _grow_transformer(model, plan, width, old)
    certificate = certify(model, grown, plan, width, steps, (batch, source, probe))
    if plan.keeps_function and not certificate.keeps_function:
        raise InputError(
            "The plan says that it keeps the function, and it does not. Received: an error of "
            f"{certificate.maximum_error:.1e}, more than {certificate.tolerance:.1e}. "
            "Grow in float32, raise tolerance=..., or use keeps_function=False."
        )
    return with_certificate(grown, certificate)


def _grow_transformer(
    model: TransformerStudent, plan: GrowthPlan, width: Width, old: Values
) -> tuple[TransformerStudent, tuple[Step, ...]]:
    layers, steps = new_layers(model.num_layers, plan)
    masked = [number for number, layer in enumerate(layers) if layer.masked]
    grown, old = larger_transformer(model, plan, width, old, masked)
    wide = widen(old, TRANSFORMER, width.maps, width.from_above)
    wide = fill_masked(wide, old, TRANSFORMER, width, plan)
    assign_values(grown, deepen(wide, TRANSFORMER, layers, model_values(grown)))
    return grown, (*width.steps, *steps)


def _grow_backbone(
    model: Any, axes: ModelAxes, plan: GrowthPlan, width: Width, old: Values
) -> tuple[Any, tuple[Step, ...]]:
    layers, steps = new_layers(model.num_layers, plan)
    if any(layer.masked for layer in layers):
        raise InputError(
            "Masks are part of kdkeras' own students. Received: depth=MaskedLayers() for a "
            "backbone of Keras Hub. Use IdentityBlocks()."
        )
    grown = larger_backbone(model, width, len(layers))
    wide = widen(old, axes, width.maps, width.from_above)
    assign_values(grown, deepen(wide, axes, layers, {}))
    return grown, (*width.steps, *steps)


def new_layers(num_layers: int, plan: GrowthPlan) -> tuple[list[NewLayer], tuple[Step, ...]]:
    """Returns where each layer comes from, and what that does.

    Raises:
        InputError: If the plan says that it keeps the function and layers do not.
    """
    new = plan.sizes.get(LAYERS, num_layers)
    if new == num_layers:
        return [NewLayer(layer) for layer in range(num_layers)], ()
    depth = plan.depth
    if plan.keeps_function and not depth.keeps_function:
        raise InputError(
            f"The plan says that it keeps the function. Received: depth={depth.name}(), which "
            "does not keep it. Use IdentityBlocks(), or keeps_function=False."
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
    model: StaticStudent, plan: GrowthPlan, width: Width, old: Values
) -> tuple[Student, tuple[Step, ...]]:
    axes = describe(model)
    if width.masked:
        raise InputError(
            "Masks belong to Transformers. Received: MaskedGrowth for the table of a static "
            "student. Use ZeroPadding(), which keeps the function at any size."
        )
    values = widen(old, axes, width.maps)
    if width.rows is not None:
        # A row counts with its token's weight, and pieces are added up so.
        weighted = np.exp(old["token_weight.table"]) * old["token_embedding.table"]
        rows = widen({"token_embedding.table": weighted}, axes, width.maps)
        values["token_embedding.table"] = np.where(
            width.rows.composed[:, None],
            rows["token_embedding.table"] / np.exp(values["token_weight.table"]),
            values["token_embedding.table"],
        )
    if LAYERS in plan.sizes:
        return _put_layers_on(model, plan, width, values)
    grown = larger_static(model, plan, width)
    assign_values(grown, values)
    return grown, width.steps


def _put_layers_on(
    model: StaticStudent, plan: GrowthPlan, width: Width, values: Values
) -> tuple[Student, tuple[Step, ...]]:
    if not isinstance(plan.depth, IdentityBlocks):
        raise InputError(
            "Layers on a table are identities at first. "
            f"Received: depth={plan.depth.name}(). Use IdentityBlocks()."
        )
    sizes = transformer_sizes(width.sizes[EMBEDDING], plan)
    config = static_config(model, width)
    del config[EMBEDDING]
    grown = TransformerStudent.from_config({**config, **sizes})
    grown._hold(plan.vocabulary or model.vocabulary)
    fresh = _drawn(model_values(grown), plan)
    outside = transformer_values(values, fresh, sizes[HEADS], plan.random(HIDDEN))
    layers = IdentityBlocks().layers(0, sizes[LAYERS])
    assign_values(grown, deepen(outside, TRANSFORMER, layers, fresh))
    step = Step(
        size=LAYERS,
        operator="LayersOnTable",
        before=0,
        after=sizes[LAYERS],
        keeps_function=True,
    )
    return grown, (*width.steps, step)


def _drawn(fresh: Values, plan: GrowthPlan) -> Values:
    """The kernels of layers that come from nowhere, drawn from the plan's seed."""
    random = plan.random(LAYERS)
    return {
        path: random.normal(0.0, _SPREAD, array.shape) if array.ndim > 1 else array
        for path, array in fresh.items()
    }
