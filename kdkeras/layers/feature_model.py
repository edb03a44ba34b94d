"""Models that give by name what they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from kdkeras.errors import InputError

__all__ = ["EMBEDDING", "FEATURES", "FeatureModel"]

EMBEDDING = "embedding"
FEATURES = ("attention", "hidden_states", "layer_embeddings")
"""Outputs that are several tensors: a model that has not got one has nothing in its place."""


class FeatureModel(keras.Model):
    """A sentence encoder whose one forward pass gives what is asked for by name.

    `model(inputs)` gives the embedding alone, and that is what is exported;
    `model(inputs, outputs=("embedding", "hidden_states"))` gives a dict. Names:

    | name | what it is |
    |---|---|
    | `embedding` | `(B, d)` |
    | `hidden_states` | a list: `[0]` what enters layer 1, `[k]` what layer `k` gives, `(B, L, h)` |
    | `attention` | a list, layer 1 first, of dicts: `query`, `key`, `value`, `(B, L, h)` each |
    | `layer_embeddings` | a list like `hidden_states`: the embedding, were that layer the last |

    The heads of `attention` stand side by side. Subclasses implement `features`
    and `output_specs`.
    """

    vocabulary_size: int | None = None
    """Token ids that the model can read, where that is known."""

    def output_specs(self) -> dict[str, Any]:
        """Returns what can be asked for: a `keras.KerasTensor` or a structure of them, by name."""
        raise NotImplementedError(f"{type(self).__name__} must implement `output_specs`.")

    def features(
        self, inputs: dict[str, Any], names: Sequence[str], training: bool | None = None
    ) -> dict[str, Any]:
        """Computes what is asked for, by name; called by `call`, with names that are offered."""
        raise NotImplementedError(f"{type(self).__name__} must implement `features`.")

    def call(
        self,
        inputs: dict[str, Any],
        training: bool | None = None,
        outputs: Sequence[str] | None = None,
    ) -> Any:
        """Returns the embedding; with `outputs` a dict of what they name.

        Raises:
            InputError: For a name that the model does not offer.
        """
        if outputs is None:
            return self.features(inputs, (EMBEDDING,), training)[EMBEDDING]
        offered = self.output_specs()
        for name in outputs:
            if name not in offered:
                raise InputError(
                    f"`outputs` must be of {list(offered)}. Received: {name!r} asked of "
                    f"{type(self).__name__} {self.name!r}. Leave it out, or take another model."
                )
        return self.features(inputs, tuple(outputs), training)

    def compute_output_spec(
        self,
        inputs: Any,
        training: bool | None = None,
        outputs: Sequence[str] | None = None,
    ) -> Any:
        """Returns the shapes and types of what `call` returns."""
        specs = self.output_specs()
        return specs[EMBEDDING] if outputs is None else {name: specs[name] for name in outputs}
