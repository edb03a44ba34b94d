"""How far an artifact may be from Keras."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from kdkeras.errors import GateError, InputError
from kdkeras.export.formats import ExportFormat

__all__ = ["LEAST_SIMILARITY_PAIRS", "Gates", "check_gates", "failures"]

# A change below this many sentences of a language is not told from chance.
_SENTENCES = 1.5

LEAST_SIMILARITY_PAIRS = 100
"""STS pairs below which a change of their correlation says too little to decide."""


@dataclass(frozen=True, kw_only=True)
class Gates:
    """The bounds that an artifact passes in every language, or does not ship.

    Changes are artifact less Keras, in percentage points, at most 0; those of
    int8 hold for float16, too.

    **Retrieval accuracy.** In a small language one sentence is more than a
    point (`100 / num_pairs`), and near ties fall either way by chance; the
    bound is therefore never tighter than 1.5 sentences, three of the
    `2 * num_pairs` queries lost on balance. From 300 pairs on the default is
    half a point.

    **Spearman's correlation on STS pairs** (times 100). Where two neighbours
    in the order of `n` cosines change places, the sum of squared rank
    differences changes by at most `2 * (n - 1)`, and so the correlation, which
    is `1 - 6 * sum / (n * (n * n - 1))`, by at most `12 / (n * (n + 1))`: 2.9
    points for 20 pairs, 0.12 for 100, 0.02 for 250. From
    `LEAST_SIMILARITY_PAIRS` (100) on no single near tie decides, and the
    bounds hold as they are; fewer pairs are refused. Both sides are measured
    on the same pairs, so that what these pairs happen to be cancels out.

    Attributes:
        float32_cosine_min: Least cosine of any sentence, for artifacts with
            the student's own float32 weights.
        float16_cosine_min: The same for float16.
        int8_cosine_mean: Mean cosine, for int8.
        int4_cosine_mean: Mean cosine, for int4.
        int8_accuracy_change_points: Change of retrieval accuracy.
        int4_accuracy_change_points: The same for int4.
        int8_spearman_change_points: Change of Spearman's correlation.
        int4_spearman_change_points: The same for int4.

    Raises:
        InputError: If a bound is out of range.
    """

    float32_cosine_min: float = 0.99999
    float16_cosine_min: float = 0.9999
    int8_cosine_mean: float = 0.99
    int4_cosine_mean: float = 0.95
    int8_accuracy_change_points: float = -0.5
    int4_accuracy_change_points: float = -1.5
    int8_spearman_change_points: float = -0.5
    int4_spearman_change_points: float = -1.5

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if "cosine" in name and not -1.0 <= value <= 1.0:
                raise InputError(f"`{name}` must be between -1 and 1. Received: {name}={value}.")
            if "change" in name and not -100.0 <= value <= 0.0:
                raise InputError(
                    f"`{name}` must be between -100 and 0 points. Received: {name}={value}."
                )

    def accuracy_bound(self, artifact: ExportFormat, num_pairs: int) -> float:
        """The least change of accuracy, in points, for a language's pairs."""
        given = getattr(self, f"{_changing(artifact)}_accuracy_change_points")
        return -max(-given, _SENTENCES / num_pairs * 100.0)

    def spearman_bound(self, artifact: ExportFormat) -> float:
        """The least change of Spearman's correlation, in points."""
        return getattr(self, f"{_changing(artifact)}_spearman_change_points")

    def to_dict(self) -> dict[str, float]:
        """Returns the bounds by name."""
        return asdict(self)


def _changing(artifact: ExportFormat) -> str:
    """Whose changes bound an artifact's."""
    return "int4" if artifact.precision == "int4" else "int8"


def failures(parity: dict[str, Any], gates: Gates) -> list[str]:
    """Lists what fails, each as one phrase: artifact, language, figure, bound.

    Args:
        parity: What `verify` measured.
        gates: The bounds.
    """
    return [
        f"{name} in {language}: {message}"
        for name, artifact in parity["artifacts"].items()
        for part, check in (("languages", _accuracy_change), ("similarity", _spearman_change))
        for language, figures in artifact.get(part, {}).items()
        for message in _all_failures(ExportFormat(name), figures, gates, check)
    ]


def _all_failures(
    artifact: ExportFormat,
    figures: dict[str, Any],
    gates: Gates,
    change: Callable[[ExportFormat, dict[str, Any], Gates], Iterator[str]],
) -> Iterator[str]:
    kind = "min" if artifact.precision in ("float32", "float16") else "mean"
    cosine, bound = figures[f"cosine_{kind}"], getattr(gates, f"{artifact.precision}_cosine_{kind}")
    # Not the reverse comparison: NaN must fail.
    if not cosine >= bound:
        word = {"min": "least", "mean": "mean"}[kind]
        yield f"{word} cosine to Keras {_number(cosine)} is below {bound:g}"
    if not artifact.is_exact:
        yield from change(artifact, figures, gates)


def _accuracy_change(
    artifact: ExportFormat, figures: dict[str, Any], gates: Gates
) -> Iterator[str]:
    change = figures["accuracy_change_points"]
    bound = gates.accuracy_bound(artifact, figures["num_pairs"])
    # A hundredth of a sentence: the two accuracies are rounded sums.
    if not change >= bound - 0.01 * 100.0 / figures["num_pairs"]:
        yield f"retrieval accuracy changed by {change:+.2f} points, the bound is {bound:+.2f}"


def _spearman_change(
    artifact: ExportFormat, figures: dict[str, Any], gates: Gates
) -> Iterator[str]:
    change, bound = figures["spearman_change_points"], gates.spearman_bound(artifact)
    if not change >= bound:
        yield (f"Spearman's correlation changed by {change:+.2f} points, the bound is {bound:+.2f}")


def _number(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.6f}"


def check_gates(parity: dict[str, Any]) -> None:
    """Raises if an artifact did not pass.

    Args:
        parity: What `verify` returned, or what `parity.json` holds.

    Raises:
        GateError: Naming each artifact, language and figure.
    """
    if parity["failures"]:
        raise GateError(
            "An artifact differs too much from Keras. "
            + "; ".join(parity["failures"])
            + ". Do not ship it; export without that format, or loosen the gate."
        )
