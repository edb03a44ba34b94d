"""New models of the grown sizes, before their weights are set."""

from __future__ import annotations

from collections.abc import Sequence
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
    Values,
    describe,
    is_backbone,
    model_values,
    variables,
)
from kdkeras.growth.plan import GrowthPlan
from kdkeras.growth.resolved_plan import ResolvedPlan, sizes_of
from kdkeras.layers import FactorizedEmbedding
from kdkeras.students import (
    MaskedTransformerStudent,
    StaticStudent,
    Student,
    TransformerStudent,
)
from kdkeras.teachers.bert import set_encoder_functions

__all__ = [
    "larger_backbone",
    "larger_static",
    "larger_transformer",
    "old_values",
    "refuse_unfinished",
]


def refuse_unfinished(model: Any) -> None:
    """Refuses a model that is masked, or whose kernels or table are stored as products.

    Raises:
        InputError: If the model is one of these.
    """
    if isinstance(model, MaskedTransformerStudent):
        raise InputError(
            "A masked student cannot grow. Received: "
            f"{model.name!r} with a mask at {model.mask:g}. Train it until its mask is 1, then "
            "call unmask(student)."
        )
    if is_backbone(model) and len(variables(model, describe(model))) != len(model.weights):
        raise InputError(
            "A backbone can only grow if it has exactly the weights of its class. Received: "
            f"{model.name!r} with {len(model.weights)} weights. "
            "Merge LoRA weights, or grow before quantization."
        )
    tables = ["table"] if isinstance(model.token_embedding, FactorizedEmbedding) else []
    products = [*tables, *(getattr(model, "kernel_ranks", None) or {})]
    if products:
        raise InputError(
            "A student with factorized kernels or a factorized table cannot grow. Received: "
            f"{model.name!r} with products in {products}. Call kdkeras.compression.merge(student)."
        )


def larger_transformer(
    model: TransformerStudent,
    plan: GrowthPlan,
    resolved: ResolvedPlan,
    old: Values,
    masked_layers: Sequence[int] = (),
) -> tuple[TransformerStudent, Values]:
    """Returns a new student of the grown sizes, and the old weights that it grows from.

    Args:
        model: The old student.
        plan: The plan.
        resolved: How each axis grows.
        old: The weights of the old student.
        masked_layers: Numbers of the new layers that are masked.
    """
    wider = resolved.sizes[HIDDEN] != model.hidden_dim
    names = (HIDDEN, HEADS, INTERMEDIATE, LAYERS, VOCABULARY)
    changes: dict[str, Any] = {
        **{name: resolved.sizes[name] for name in names},
        "project": model.project or wider,
        "name": f"{model.name}_grown",
    }
    if resolved.masked or masked_layers:
        sizes = sizes_of(model)
        grown: TransformerStudent = MaskedTransformerStudent(
            **{**model.get_config(), **changes},
            masked={axis: sizes[axis] for axis in resolved.masked},
            masked_layers=masked_layers,
            vocabulary=plan.vocabulary or model.vocabulary,
        )
    else:
        grown = model.clone(vocabulary=plan.vocabulary, copy_weights=False, **changes)
    if grown.projection is not None and model.projection is None:
        # The wider mean must be contracted to `output_dim`: a projection that starts at F.
        old = {
            **old,
            "projection.kernel": np.eye(model.hidden_dim),
            "projection.bias": np.zeros(model.hidden_dim),
        }
    return grown, old


def larger_backbone(model: Any, resolved: ResolvedPlan, num_layers: int) -> Any:
    """Returns a new backbone of the grown sizes."""
    names = (HIDDEN, HEADS, INTERMEDIATE, VOCABULARY)
    config = {
        **model.get_config(),
        **{name: resolved.sizes[name] for name in names},
        LAYERS: num_layers,
        "name": f"{model.name}_grown",
    }
    if "key_value_dim" in config:
        config["key_value_dim"] = resolved.sizes[HEAD_SIZE]
    grown = type(model).from_config(config)
    if hasattr(model, "transformer_layers"):
        # Not in the configuration; those of a teacher may differ from KerasHub's defaults.
        first = model.transformer_layers[0]
        set_encoder_functions(grown, first.activation, first.layer_norm_epsilon)
    return grown


def larger_static(model: StaticStudent, plan: GrowthPlan, resolved: ResolvedPlan) -> StaticStudent:
    """Returns a new static student of the grown sizes."""
    return model.clone(
        vocabulary=plan.vocabulary,
        copy_weights=False,
        embedding_dim=resolved.sizes[EMBEDDING],
        token_weights=True,
        name=f"{model.name}_grown",
    )


def old_values(model: Student) -> Values:
    """Returns the weights that a model grows from by path, float64."""
    values = model_values(model)
    if isinstance(model, StaticStudent):
        # Token weights that were multiplied into the table start again at 0.
        rows = len(values["token_embedding.table"])
        values.setdefault("token_weight.table", np.zeros((rows, 1)))
    return values
