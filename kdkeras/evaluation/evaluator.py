"""The interface of evaluators, and running several of them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from kdkeras.errors import InputError
from kdkeras.evaluation.encoders import Encoder
from kdkeras.progress import Progress, no_progress

__all__ = ["Evaluator", "TsvPath", "check_lengths", "checked_name", "evaluate_all", "name_of"]

TsvPath = str | os.PathLike[str]


class Evaluator(Protocol):
    """A callable that computes metrics of an encoder.

    Attributes:
        name: Prefix of the names of the metrics.
    """

    name: str

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Returns the metrics of `encoder` by name."""


def evaluate_all(
    evaluators: Iterable[Evaluator], encoder: Encoder, progress: Progress = no_progress
) -> dict[str, float]:
    """Runs several evaluators.

    Args:
        evaluators: The evaluators.
        encoder: The encoder to evaluate.
        progress: Called as `progress(task, done, total)`, in evaluators.

    Returns:
        All metrics in one dictionary, in the order of the evaluators.

    Raises:
        InputError: If two evaluators return a metric of the same name.
    """
    evaluators = list(evaluators)
    results: dict[str, float] = {}
    progress("Evaluating", 0, len(evaluators))
    for done, evaluator in enumerate(evaluators, 1):
        metrics = evaluator(encoder)
        repeated = sorted(results.keys() & metrics.keys())
        if repeated:
            raise InputError(
                "Evaluators must have different names. "
                f"Received: {repeated[0]} twice. Rename one, e.g. by its language."
            )
        results.update(metrics)
        progress(f"Evaluating, {evaluator.name}", done, len(evaluators))
    return results


def name_of(path: TsvPath) -> str:
    """Returns the name of an evaluator for a file: `"en_de_test"` for `en-de.test.tsv.gz`."""
    stem = re.sub(r"\.(tsv|txt)?(\.gz)?$", "", Path(path).name)
    return re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_") or "file"


def check_lengths(name: str, *lengths: int) -> None:
    """Rejects lists of different lengths, and empty ones.

    Raises:
        InputError: Naming the evaluator and the lengths.
    """
    if len(set(lengths)) != 1 or lengths[0] == 0:
        raise InputError(
            f"Evaluator {name}: its lists must have equal lengths and not be empty. "
            f"Received: lengths {', '.join(map(str, lengths))}. Pass aligned lists."
        )


def checked_name(name: str) -> str:
    """Returns the name of an evaluator, if it is valid.

    Raises:
        InputError: If it has other characters than letters, digits and underscores.
    """
    # Metrics become keys of Keras logs and columns of CSV files.
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise InputError(
            "The name of an evaluator must consist of letters, digits and underscores. "
            f"Received: name={name!r}. Example: sts17_en_de."
        )
    return name
