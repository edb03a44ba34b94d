"""The Keras model of a BERT teacher."""

from __future__ import annotations

from typing import Any

import keras
import keras_hub
from safetensors import SafetensorError
from safetensors.numpy import load_file

from kdkeras.errors import InputError
from kdkeras.teachers.sentence_encoder import SentenceEncoder
from kdkeras.teachers.snapshot import DenseStep, NormalizeStep, Snapshot

__all__ = ["build_encoder", "set_encoder_functions"]


def build_encoder(snapshot: Snapshot) -> SentenceEncoder:
    """Creates the frozen Keras model of a snapshot, with its weights.

    Raises:
        InputError: If a weight file is damaged or incomplete.
    """
    try:
        backbone = keras_hub.models.BertBackbone.from_preset(str(snapshot.folder), dtype="float32")
        steps = [_step_layer(step) for step in snapshot.steps]
    except (SafetensorError, ValueError, KeyError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            "A teacher's safetensors must contain all weights that its config.json describes. "
            f"Received: {snapshot.folder} ({reason}). Download the snapshot again."
        ) from error
    _match_reference(backbone, snapshot.config)
    return SentenceEncoder(backbone, snapshot.pooling, steps, name="teacher")


def _match_reference(backbone: keras_hub.models.BertBackbone, config: dict[str, Any]) -> None:
    """Sets the activation and the epsilon of config.json.

    `BertBackbone` always uses the tanh approximation of gelu and the epsilon
    1e-12. The approximation alone changes an embedding by about 1e-3.
    """
    activation = _activation(config.get("hidden_act", "gelu"))
    set_encoder_functions(backbone, activation, float(config.get("layer_norm_eps", 1e-12)))


def set_encoder_functions(backbone: Any, activation: Any, epsilon: float) -> None:
    """Sets the feed-forward activation and the epsilon of all layer normalizations.

    Args:
        backbone: A backbone whose `transformer_layers` are
            `keras_hub.layers.TransformerEncoder`.
        activation: Function of a tensor.
        epsilon: Added to the variance; positive.
    """
    backbone.embeddings_layer_norm.epsilon = epsilon
    for layer in backbone.transformer_layers:
        layer.activation = activation
        layer._feedforward_intermediate_dense.activation = activation
        layer.layer_norm_epsilon = epsilon
        layer._self_attention_layer_norm.epsilon = epsilon
        layer._feedforward_layer_norm.epsilon = epsilon


def _activation(name: str) -> Any:
    if name == "relu":
        return keras.activations.relu
    return exact_gelu if name == "gelu" else tanh_gelu


def exact_gelu(x: Any) -> Any:
    """Returns `x · Φ(x)`, computed with the error function."""
    return keras.activations.gelu(x, approximate=False)


def tanh_gelu(x: Any) -> Any:
    """Returns the tanh approximation of gelu."""
    return keras.activations.gelu(x, approximate=True)


def _step_layer(step: DenseStep | NormalizeStep) -> keras.layers.Layer:
    if isinstance(step, NormalizeStep):
        return keras.layers.UnitNormalization(axis=-1, dtype="float32")
    weights = load_file(step.weights)
    kernel = weights["linear.weight"].T
    layer = keras.layers.Dense(
        step.output_dim,
        use_bias=step.use_bias,
        activation=exact_gelu if step.activation == "gelu" else step.activation,
        dtype="float32",
    )
    layer.build((None, kernel.shape[0]))
    layer.set_weights([kernel, weights["linear.bias"]] if step.use_bias else [kernel])
    return layer
