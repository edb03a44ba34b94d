"""The measured effect of a structural change (growth, factorization) on a model."""

from __future__ import annotations

import dataclasses
from typing import Any

__all__ = ["Certificate", "Step"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """The part of one operator in a structural change.

    Attributes:
        size: Name of the size that changed, e.g. `"hidden_dim"`.
        operator: Name of the operator.
        before: Size before the change.
        after: Size after the change.
        keeps_function: Whether the operator preserves the function. This follows
            from its matrices; it is not measured.
    """

    size: str
    operator: str
    before: int
    after: int
    keeps_function: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificate:
    """What a structural change preserved, and what the new model costs.

    `kdkeras.growth.grow`, `kdkeras.compression.factorize` and
    `kdkeras.compression.merge` measure it and return it as the `certificate`
    attribute of the new model.

    Attributes:
        steps: One entry per operator.
        keeps_function: Whether the embeddings of the probe are unchanged within
            `tolerance`. For a backbone: whether every output equals the old output
            times `E` of the hidden axis, at every token that is not padding.
        maximum_error: Largest absolute difference of an embedding (or output)
            component.
        tolerance: Largest `maximum_error` that counts as unchanged.
        cosine_drift: Maximum of `1 - cos(old, new)` over the sentences of the probe.
            For a backbone, the vector of a sentence is the mean over its tokens.
        mean_cosine_drift: Mean of the same values.
        probe: Kind of the probe: `"texts"`, `"token ids"` or `"random token ids"`.
        probe_size: Number of sentences in the probe.
        text_cosine_drift: Mean drift when each model tokenizes the texts with its own
            vocabulary. None unless the vocabulary changed and the probe is texts.
        parameters_before: Number of weights of the old model.
        parameters_after: Number of weights of the new model.
        flops_before: FLOPs of the old model for one sentence of `flops_tokens`
            tokens, see `kdkeras.students.forward_flops`. For T5, both the encoder
            and the decoder read a sentence of that length.
        flops_after: FLOPs of the new model for the same sentence.
        flops_tokens: Number of tokens of that sentence, the longest of the probe.
        flops_growth: FLOPs of the growth itself (the products with `E` and `F`).
            0 for factorization.
    """

    steps: tuple[Step, ...]
    keeps_function: bool
    maximum_error: float
    tolerance: float
    cosine_drift: float
    mean_cosine_drift: float
    probe: str
    probe_size: int
    text_cosine_drift: float | None
    parameters_before: int
    parameters_after: int
    flops_before: int
    flops_after: int
    flops_tokens: int
    flops_growth: int

    def to_dict(self) -> dict[str, Any]:
        """Returns all attributes as a JSON-serializable dict."""
        return {**dataclasses.asdict(self), "steps": [dataclasses.asdict(s) for s in self.steps]}
