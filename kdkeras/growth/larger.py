"""Fresh students of the new sizes, and weights by path."""

from __future__ import annotations

from typing import Any

import numpy as np

from kdkeras.errors import InputError
from kdkeras.growth.axes import (
    EMBEDDING,
    HEAD_SIZE,
    HEADS,
    HIDDEN,
    INTERMEDIATE,
    LAYERS,
    VOCABULARY,
)
from kdkeras.growth.described import describe, is_backbone, variables
from kdkeras.growth.expand import Values
from kdkeras.growth.maps import Width
from kdkeras.growth.plan import GrowthPlan
from kdkeras.growth.sizes import sizes_of
from kdkeras.layers import FactorizedEmbedding
from kdkeras.students import (
    MaskedTransformerStudent,
    StaticStudent,
    Student,
    TransformerStudent,
)
from kdkeras.teachers.bert import set_encoder_functions

__all__ = [
    "assign_values",
    "larger_backbone",
    "larger_static",
    "larger_transformer",
    "model_values",
    "old_values",
    "refuse_unfinished",
    "static_config",
]


def refuse_unfinished(model: Any) -> None:
    """Refuses a model whose kernels or table are products, or whose new units are masked.

    Raises:
        InputError: If it is such.
    """
    if isinstance(model, MaskedTransformerStudent):
        raise InputError(
            "A student grows when its masks are gone. Received: "
            f"{model.name!r} with masks at {model.mask:g}. Train them to 1, then unmask(student)."
        )
    if is_backbone(model) and len(variables(model, describe(model))) != len(model.weights):
        raise InputError(
            "A backbone grows from plain weights. Received: "
            f"{model.name!r} with {len(model.weights)} of them, more or fewer than its class has. "
            "Merge LoRA, or grow before it is quantized."
        )
    tables = ["table"] if isinstance(model.token_embedding, FactorizedEmbedding) else []
    products = [*tables, *(getattr(model, "kernel_ranks", None) or {})]
    if products:
        raise InputError(
            "A student grows from plain kernels and a table of its own width. Received: "
            f"{model.name!r} with products in {products}. Multiply them first: merge(student)."
        )


def larger_transformer(
    model: TransformerStudent,
    plan: GrowthPlan,
    width: Width,
    old: Values,
    masked_layers: list[int] | None = None,
) -> tuple[TransformerStudent, Values]:
    """Returns a fresh student of the new sizes, and the old weights that it grows from.

    Args:
        model: The old student.
        plan: By which plan.
        width: The plan's axes.
        old: Its weights.
        masked_layers: New layers under a mask; None for none.
    """
    wider = width.sizes[HIDDEN] != model.hidden_dim
    names = (HIDDEN, HEADS, INTERMEDIATE, LAYERS, VOCABULARY)
    config = {
        **model.get_config(),
        **{name: width.sizes[name] for name in names},
        "project": model.project or wider,
        "name": f"{model.name}_grown",
    }
    grown: TransformerStudent
    if width.masked or masked_layers:
        sizes = sizes_of(model)
        masked = {axis: sizes[axis] for axis in width.masked}
        config |= {"masked": masked, "masked_layers": masked_layers or []}
        grown = MaskedTransformerStudent.from_config(config)
    else:
        grown = TransformerStudent.from_config(config)
    grown._hold(plan.vocabulary or model.vocabulary)
    if grown.projection is not None and model.projection is None:
        # What was read as it is must be contracted now: a projection that is F.
        old = {
            **old,
            "projection.kernel": np.eye(model.hidden_dim),
            "projection.bias": np.zeros(model.hidden_dim),
        }
    return grown, old


def larger_backbone(model: Any, width: Width, num_layers: int) -> Any:
    """Returns a fresh backbone of the new sizes."""
    names = (HIDDEN, HEADS, INTERMEDIATE, VOCABULARY)
    config = {
        **model.get_config(),
        **{name: width.sizes[name] for name in names},
        LAYERS: num_layers,
        "name": f"{model.name}_grown",
    }
    if "key_value_dim" in config:
        config["key_value_dim"] = width.sizes[HEAD_SIZE]
    grown = type(model).from_config(config)
    if hasattr(model, "transformer_layers"):
        # Not in the configuration; a teacher's may be other than Keras Hub's.
        first = model.transformer_layers[0]
        set_encoder_functions(grown, first.activation, first.layer_norm_epsilon)
    return grown


def larger_static(model: StaticStudent, plan: GrowthPlan, width: Width) -> StaticStudent:
    """Returns a fresh static student of the new sizes."""
    grown = StaticStudent.from_config(static_config(model, width))
    grown._hold(plan.vocabulary or model.vocabulary)
    return grown


def static_config(model: StaticStudent, width: Width) -> dict[str, Any]:
    """Returns the configuration of a static student of the new sizes."""
    return {
        **model.get_config(),
        EMBEDDING: width.sizes[EMBEDDING],
        VOCABULARY: width.sizes[VOCABULARY],
        "token_weights": True,
        "name": f"{model.name}_grown",
    }


def model_values(model: Any) -> Values:
    """Returns a student's weights, float64, by path."""
    found = variables(model, describe(model))
    return {path: v.value.numpy().astype(np.float64) for path, v in found.items()}


def old_values(model: Student) -> Values:
    """Returns the weights that a student grows from, float64, by path."""
    values = model_values(model)
    if isinstance(model, StaticStudent):
        # Where they were multiplied into the table, they start anew.
        rows = len(values["token_embedding.table"])
        values.setdefault("token_weight.table", np.zeros((rows, 1)))
    return values


def assign_values(model: Any, values: Values) -> None:
    """Sets every weight, by path."""
    targets = variables(model, describe(model))
    masks = isinstance(model, MaskedTransformerStudent)
    if set(targets) != set(values) or len(targets) != len(model.weights) - masks:
        raise RuntimeError(f"undescribed weights: {set(targets) ^ set(values)}")
    for path, variable in targets.items():
        variable.assign(values[path].astype(variable.dtype))
