"""What Keras Hub fixes in its BERT-like backbones, and a snapshot may have otherwise."""

from __future__ import annotations

from typing import Any

__all__ = ["set_encoder_functions"]


def set_encoder_functions(backbone: Any, activation: Any, epsilon: float) -> None:
    """Sets the feed-forward activation and the norms' epsilon of every layer.

    Args:
        backbone: One whose `transformer_layers` are `keras_hub.layers.TransformerEncoder`.
        activation: A function of a tensor.
        epsilon: What is added to a variance, above 0.
    """
    backbone.embeddings_layer_norm.epsilon = epsilon
    for layer in backbone.transformer_layers:
        layer.activation = activation
        layer._feedforward_intermediate_dense.activation = activation
        layer.layer_norm_epsilon = epsilon
        layer._self_attention_layer_norm.epsilon = epsilon
        layer._feedforward_layer_norm.epsilon = epsilon
