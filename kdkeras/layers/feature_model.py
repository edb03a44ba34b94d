"""Models with named outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from kdkeras.errors import InputError

__all__ = ["EMBEDDING", "FEATURES", "FeatureModel"]

EMBEDDING = "embedding"
FEATURES = ("attention", "hidden_states", "layer_embeddings")
"""Names of the outputs that consist of several tensors."""


class FeatureModel(keras.Model):
    """Base class of sentence encoders with several outputs, requested by name.

    `model(inputs)` returns the embedding only, which is what is exported.
    `model(inputs, outputs=("embedding", "hidden_states"))` returns a dict,
    computed in one forward pass. Names:

    | name | value |
    |---|---|
    | `embedding` | `(B, d)` |
    | `hidden_states` | list: `[0]` input of layer 1, `[k]` output of layer `k`, `(B, L, h)` |
    | `attention` | list with one dict per layer: `query`, `key`, `value`, each `(B, L, h)` |
    | `layer_embeddings` | list: `[k]` embedding of `hidden_states[k]`, `(B, d)` |

    The heads of `attention` are concatenated along the last axis. Subclasses
    implement `features` and `output_specs`.
    """

    vocabulary_size: int | None = None
    """Number of token ids that the model accepts, or None if unknown."""

    def output_specs(self) -> dict[str, Any]:
        """Returns a `keras.KerasTensor`, or a structure of them, per available output."""
        raise NotImplementedError(f"{type(self).__name__} must implement `output_specs`.")

    def features(
        self, inputs: dict[str, Any], names: Sequence[str], training: bool | None = None
    ) -> dict[str, Any]:
        """Computes the requested outputs. `call` has checked that `names` are available."""
        raise NotImplementedError(f"{type(self).__name__} must implement `features`.")

    def call(
        self,
        inputs: dict[str, Any],
        training: bool | None = None,
        outputs: Sequence[str] | None = None,
    ) -> Any:
        """Returns the embedding, or with `outputs` a dict of the requested outputs.

        Raises:
            InputError: If the model has no output of that name.
        """
        if outputs is None:
            return self.features(inputs, (EMBEDDING,), training)[EMBEDDING]
        offered = self.output_specs()
        for name in outputs:
            if name not in offered:
                raise InputError(
                    f"`outputs` must be some of {list(offered)}. Received: {name!r} requested "
                    f"from {type(self).__name__} {self.name!r}. Omit it, or use another model."
                )
        return self.features(inputs, tuple(outputs), training)

    def compute_output_spec(
        self,
        inputs: Any,
        training: bool | None = None,
        outputs: Sequence[str] | None = None,
    ) -> Any:
        """Returns the shapes and dtypes of the outputs of `call`."""
        specs = self.output_specs()
        return specs[EMBEDDING] if outputs is None else {name: specs[name] for name in outputs}
