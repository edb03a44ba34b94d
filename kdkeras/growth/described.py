"""Which description belongs to a model, and its weights by path."""

from __future__ import annotations

from typing import Any

import keras
import keras_hub

from kdkeras.errors import InputError
from kdkeras.growth.axes import ModelAxes
from kdkeras.growth.backbone_axes import BERT, ROBERTA, T5
from kdkeras.growth.student_axes import STATIC, TRANSFORMER
from kdkeras.students import MaskedTransformerStudent, StaticStudent, TransformerStudent

__all__ = ["BACKBONES", "describe", "is_backbone", "variables"]

BACKBONES: dict[type[keras.Model], ModelAxes] = {
    keras_hub.models.BertBackbone: BERT,
    keras_hub.models.DistilBertBackbone: ROBERTA,
    keras_hub.models.RobertaBackbone: ROBERTA,
    keras_hub.models.XLMRobertaBackbone: ROBERTA,
    keras_hub.models.T5Backbone: T5,
}
"""Backbones of Keras Hub that grow."""

MODELS: dict[type[keras.Model], ModelAxes] = {
    StaticStudent: STATIC,
    TransformerStudent: TRANSFORMER,
    **BACKBONES,
}


def describe(model: Any) -> ModelAxes:
    """Returns the description of a model's class.

    Raises:
        InputError: If the class is not described.
    """
    # A masked student has the weights of a plain one; what grows refuses it.
    made = TransformerStudent if isinstance(model, MaskedTransformerStudent) else type(model)
    axes = MODELS.get(made)
    if axes is None:
        raise InputError(
            f"The model must be one of {[c.__name__ for c in MODELS]}. "
            f"Received: {type(model).__name__}. Grow a kdkeras student or a backbone of these."
        )
    return axes


def is_backbone(model: Any) -> bool:
    """Whether a model is a backbone of Keras Hub that grows."""
    return type(model) in BACKBONES


def variables(model: Any, axes: ModelAxes) -> dict[str, keras.Variable]:
    """Returns the weights by path; those of layer 3 as `blocks.3.qkv_dense.kernel`.

    Weights that a model does not have, such as a projection, are left out.
    """
    paths = list(axes.weights)
    for stack in axes.stacks:
        layers = range(len(getattr(model, stack)))
        paths += [f"{stack}.{n}.{path}" for n in layers for path in axes.layer_weights]
    found = {path: _at(model, path) for path in paths}
    return {path: variable for path, variable in found.items() if variable is not None}


def _at(model: Any, path: str) -> Any:
    here = model
    for name in path.split("."):
        here = here[int(name)] if name.isdigit() else getattr(here, name, None)
        if here is None:
            return None
    return here
