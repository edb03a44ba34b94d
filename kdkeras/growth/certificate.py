"""What growth did to a model, measured."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kdkeras.errors import InputError

__all__ = [
    "Certificate",
    "Comparison",
    "Step",
    "batches_of",
    "compare",
    "embed",
    "own_texts_drift",
    "probe_batch",
]

_BATCH = 64
_RANDOM_ROWS = 64
_RANDOM_LENGTH = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One operator's part.

    Attributes:
        size: What grew, e.g. `"hidden_dim"`.
        operator: Name of the operator.
        before: Size before.
        after: Size after.
        keeps_function: Whether its matrices keep the function: decided from
            them, not measured.
    """

    size: str
    operator: str
    before: int
    after: int
    keeps_function: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Certificate:
    """What growth kept and what it costs.

    Attributes:
        steps: What each operator did.
        keeps_function: Whether the embeddings are the old ones, within the
            plan's tolerance, on the probe. For a backbone: whether every
            output is the old one times `E` of the hidden axis, at every token
            that is no padding.
        maximum_error: Largest difference of a component of an embedding (or output).
        tolerance: What counted as kept.
        cosine_drift: Largest `1 - cos(old, new)` of a sentence (of a
            backbone's mean over its tokens).
        mean_cosine_drift: Mean of the same.
        probe: What was embedded: `"texts"`, `"token ids"` or `"random token ids"`.
        probe_size: Sentences in the probe.
        text_cosine_drift: With a new vocabulary and texts: mean of the drift if
            each model reads the texts with its own vocabulary; else None.
        parameters_before: Weights of the old model.
        parameters_after: Weights of the new model.
        flops_before: Operations to embed one sentence, see `forward_flops`; for
            T5 those of a sentence of that length on either side.
        flops_after: The same for the new model.
        flops_tokens: Tokens of that sentence: the longest of the probe.
        flops_growth: Operations of the growth itself, its products with `E` and `F`.
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
        """Returns all of it, ready for JSON."""
        return {**dataclasses.asdict(self), "steps": [dataclasses.asdict(s) for s in self.steps]}


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two models' embeddings of the same sentences.

    Attributes:
        maximum_error: Largest difference of a component.
        largest: Largest component of the first's.
        drifts: `(N,)`, `1 - cos` of each sentence.
    """

    maximum_error: float
    largest: float
    drifts: np.ndarray


def probe_batch(model: Any, probe: Any) -> tuple[dict[str, np.ndarray], str]:
    """Returns the token ids to compare on, and what they are.

    Args:
        model: The old model.
        probe: Texts, or `{"token_ids", "padding_mask"}`, or None for random ids.

    Raises:
        InputError: If texts are given and the model has no vocabulary, or
            there is nothing to compare.
    """
    if probe is None:
        shape = (_RANDOM_ROWS, min(_RANDOM_LENGTH, model.sequence_length))
        ids = np.random.default_rng(0).integers(model.vocabulary_size, size=shape)
        return {
            "token_ids": ids.astype(np.int32),
            "padding_mask": np.ones(shape, np.int32),
        }, "random token ids"
    if isinstance(probe, dict):
        if set(probe) != {"token_ids", "padding_mask"} or not len(probe["token_ids"]):
            raise InputError(
                "`probe` ids must be {'token_ids': ..., 'padding_mask': ...} with a row at least. "
                f"Received: {sorted(probe)}. Use vocabulary.encode(texts)."
            )
        return {name: np.asarray(array, np.int32) for name, array in probe.items()}, "token ids"
    if isinstance(probe, str) or not len(probe):
        raise InputError(
            f"`probe` must be a list of texts. Received: {probe!r}. "
            "Use some hundred real sentences, or leave it out for random token ids."
        )
    if model.vocabulary is None:
        raise InputError(
            "A probe of texts needs a vocabulary. Received: a model without one. "
            "Give token ids, or make the model with vocabulary=...."
        )
    return model.vocabulary.encode(list(probe), model.sequence_length), "texts"


def batches_of(batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Yields the rows in parts that fit into memory."""
    for start in range(0, len(next(iter(batch.values()))), _BATCH):
        yield {name: array[start : start + _BATCH] for name, array in batch.items()}


def embed(model: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the embeddings of token ids, float64."""
    parts = [np.asarray(model(part, training=False)) for part in batches_of(batch)]
    return np.concatenate(parts).astype(np.float64)


def compare(before: np.ndarray, after: np.ndarray) -> Comparison:
    """Compares embeddings, row by row."""
    lengths = np.linalg.norm(before, axis=1) * np.linalg.norm(after, axis=1)
    drifts = 1.0 - (before * after).sum(axis=1) / np.maximum(lengths, 1e-30)
    return Comparison(
        float(np.abs(after - before).max()), float(np.abs(before).max()), np.maximum(drifts, 0.0)
    )


def own_texts_drift(old: Any, new: Any, texts: Sequence[str]) -> float:
    """The mean drift of texts if each model reads them with its own vocabulary."""
    before, after = (
        embed(model, model.vocabulary.encode(list(texts), model.sequence_length))
        for model in (old, new)
    )
    return float(compare(before, after).drifts.mean())
