"""Comparing a student with the student that it was made from."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from kdkeras.errors import InputError
from kdkeras.students.certificate import Certificate, Step
from kdkeras.students.flops import forward_flops
from kdkeras.vectors import cosine_by_row

__all__ = [
    "Comparison",
    "batches_of",
    "certify",
    "compare",
    "embed",
    "own_texts_drift",
    "probe_batch",
    "with_certificate",
]

TOKEN_IDS = "token_ids"
"""Name of the input of token ids, or the end of its name (`encoder_token_ids`)."""
_BATCH_SIZE = 64
_RANDOM_EXAMPLES = 64
_RANDOM_LENGTH = 16


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Differences between two models' embeddings of the same sentences.

    Attributes:
        maximum_error: Largest absolute difference of a component.
        largest: Largest absolute component of the old embeddings.
        drifts: `(N,)`, `1 - cos(old, new)` per sentence.
    """

    maximum_error: float
    largest: float
    drifts: np.ndarray


def probe_batch(model: Any, probe: Any) -> tuple[dict[str, np.ndarray], str]:
    """Returns the token ids to compare two models on, and the kind of the probe.

    Args:
        model: The old student.
        probe: Texts, `{"token_ids", "padding_mask"}`, or None for random token ids.

    Raises:
        InputError: If the probe is empty or malformed, or if it consists of texts
            and the model has no vocabulary.
    """
    if probe is None:
        shape = (_RANDOM_EXAMPLES, min(_RANDOM_LENGTH, model.sequence_length))
        ids = np.random.default_rng(0).integers(model.vocabulary_size, size=shape)
        return {
            "token_ids": ids.astype(np.int32),
            "padding_mask": np.ones(shape, np.int32),
        }, "random token ids"
    if isinstance(probe, dict):
        if set(probe) != {"token_ids", "padding_mask"} or not len(probe["token_ids"]):
            raise InputError(
                "`probe` must be {'token_ids': ..., 'padding_mask': ...} with at least one row. "
                f"Received: {sorted(probe)}. Use vocabulary.encode(texts)."
            )
        return {name: np.asarray(array, np.int32) for name, array in probe.items()}, "token ids"
    if isinstance(probe, str) or not len(probe):
        raise InputError(
            f"`probe` must be a non-empty list of texts. Received: {probe!r}. "
            "Use a few hundred real sentences, or omit it for random token ids."
        )
    if model.vocabulary is None:
        raise InputError(
            "A probe of texts requires a vocabulary. Received: a model without one. "
            "Pass token ids, or create the model with vocabulary=...."
        )
    return model.vocabulary.encode(list(probe), model.sequence_length), "texts"


def batches_of(batch: dict[str, np.ndarray]) -> Iterator[dict[str, np.ndarray]]:
    """Yields the rows in batches that fit into memory."""
    for start in range(0, len(next(iter(batch.values()))), _BATCH_SIZE):
        yield {name: array[start : start + _BATCH_SIZE] for name, array in batch.items()}


def embed(model: Any, batch: dict[str, np.ndarray]) -> np.ndarray:
    """Returns the embeddings of token ids, `(N, output_dim)` float64."""
    parts = [np.asarray(model(part, training=False)) for part in batches_of(batch)]
    return np.concatenate(parts).astype(np.float64)


def compare(before: np.ndarray, after: np.ndarray) -> Comparison:
    """Compares two arrays of embeddings, `(N, d)` each, row by row."""
    drifts = 1.0 - cosine_by_row(before, after)
    return Comparison(
        float(np.abs(after - before).max()), float(np.abs(before).max()), np.maximum(drifts, 0.0)
    )


def own_texts_drift(old: Any, new: Any, texts: Sequence[str]) -> float:
    """Returns the mean drift of texts that each model tokenizes with its own vocabulary."""
    before, after = (
        embed(model, model.vocabulary.encode(list(texts), model.sequence_length))
        for model in (old, new)
    )
    return float(compare(before, after).drifts.mean())


def certify(
    models: tuple[Any, Any],
    steps: tuple[Step, ...],
    found: Comparison,
    tolerance: float,
    probe: tuple[dict[str, np.ndarray], str],
    text_cosine_drift: float | None = None,
    flops_growth: int = 0,
) -> Certificate:
    """Builds the certificate of a change.

    Args:
        models: The old and the new model.
        steps: One entry per operator.
        found: The measured differences.
        tolerance: Largest error that counts as unchanged, relative to the largest
            component of the old embeddings, or to 1 if that is larger.
        probe: The inputs that were compared, and their kind.
        text_cosine_drift: See `Certificate`.
        flops_growth: See `Certificate`.
    """
    (model, changed), (batch, source) = models, probe
    ids = next(array for name, array in batch.items() if name.endswith(TOKEN_IDS))
    num_examples, num_tokens = (int(size) for size in ids.shape)
    tolerance *= max(found.largest, 1.0)
    return Certificate(
        steps=steps,
        keeps_function=found.maximum_error <= tolerance,
        maximum_error=found.maximum_error,
        tolerance=tolerance,
        cosine_drift=float(found.drifts.max()),
        mean_cosine_drift=float(found.drifts.mean()),
        probe=source,
        probe_size=num_examples,
        text_cosine_drift=text_cosine_drift,
        parameters_before=model.count_params(),
        parameters_after=changed.count_params(),
        flops_before=forward_flops(model, num_tokens),
        flops_after=forward_flops(changed, num_tokens),
        flops_tokens=num_tokens,
        flops_growth=flops_growth,
    )


def with_certificate(model: Any, certificate: Certificate) -> Any:
    """Sets `model.certificate`, which Keras neither tracks nor saves, and returns the model."""
    object.__setattr__(model, "certificate", certificate)
    return model
