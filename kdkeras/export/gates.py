"""Quality gates: how much an artifact may differ from Keras."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

from kdkeras.errors import GateError, InputError
from kdkeras.export.formats import ExportFormat

__all__ = ["MIN_SIMILARITY_PAIRS", "Gates", "check_gates", "failures"]

# A change of fewer sentences in a language may be chance.
_SENTENCES = 1.5

MIN_SIMILARITY_PAIRS = 100
"""Minimum number of STS pairs. With fewer, one near tie could fail a gate."""


@dataclass(frozen=True, kw_only=True)
class Gates:
    """Bounds that every artifact must meet in every language.

    Changes are the artifact's figure minus that of Keras, in percentage points;
    bounds for changes are 0 or negative. The change bounds of int8 also apply to
    float16; artifacts with float32 weights are checked by cosine only.

    **Retrieval accuracy.** With few pairs, one sentence is worth more than a
    point (`100 / num_pairs`), and near ties can go either way. The bound is
    therefore never tighter than 1.5 sentences, i.e. three of the
    `2 * num_pairs` queries. From 300 pairs on, the default is half a point.

    **Spearman's correlation on STS pairs** (times 100). If two neighbors in the
    order of `n` cosines swap places, the sum of squared rank differences changes
    by at most `2 * (n - 1)`. The correlation, `1 - 6 * sum / (n * (n * n - 1))`,
    then changes by at most `12 / (n * (n + 1))`: 2.9 points for 20 pairs, 0.12
    points for 100, 0.02 points for 250. From 100 pairs
    (`MIN_SIMILARITY_PAIRS`) on, no single near tie can fail the gate; fewer pairs
    are refused. Keras and the artifact are compared on the same pairs, so that
    the choice of pairs matters little.

    Attributes:
        float32_cosine_min: Minimum cosine of any sentence between Keras and an
            artifact with float32 weights. In [-1, 1]; defaults to 0.99999.
        float16_cosine_min: Minimum cosine for float16. Defaults to 0.9999.
        int8_cosine_mean: Minimum of the mean cosine for int8. Defaults to 0.99.
        int4_cosine_mean: Minimum of the mean cosine for int4. Defaults to 0.95.
        int8_accuracy_change_points: Minimum change of retrieval accuracy for
            int8 and float16, in [-100, 0]. Defaults to -0.5.
        int4_accuracy_change_points: The same for int4. Defaults to -1.5.
        int8_spearman_change_points: Minimum change of Spearman's correlation
            times 100 for int8 and float16, in [-100, 0]. Defaults to -0.5.
        int4_spearman_change_points: The same for int4. Defaults to -1.5.

    Raises:
        InputError: If a bound is out of range.

    Example:
        >>> from kdkeras.export import ExportFormat, Gates
        >>> Gates(int8_accuracy_change_points=-1.0).accuracy_bound(ExportFormat.TFLITE_INT8, 1000)
        -1.0
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
                raise InputError(
                    f"`{name}` must be between -1 and 1. Received: {name}={value}. "
                    "Use a cosine such as 0.99."
                )
            if "change" in name and not -100.0 <= value <= 0.0:
                raise InputError(
                    f"`{name}` must be between -100 and 0 points. Received: {name}={value}. "
                    "Use a negative number such as -0.5 to allow a loss."
                )

    def accuracy_bound(self, artifact: ExportFormat, num_pairs: int) -> float:
        """Returns the minimum change of accuracy for a number of pairs, in points."""
        given = getattr(self, f"{_changing(artifact)}_accuracy_change_points")
        return -max(-given, _SENTENCES / num_pairs * 100.0)

    def spearman_bound(self, artifact: ExportFormat) -> float:
        """Returns the minimum change of Spearman's correlation, in points."""
        return getattr(self, f"{_changing(artifact)}_spearman_change_points")

    def to_dict(self) -> dict[str, float]:
        """Returns the bounds by name."""
        return asdict(self)


def _changing(artifact: ExportFormat) -> str:
    """Returns the precision whose change bounds apply to an artifact."""
    return "int4" if artifact.precision == "int4" else "int8"


def failures(parity: dict[str, Any], gates: Gates) -> list[str]:
    """Returns one phrase per failed gate: artifact, language, figure, bound.

    Args:
        parity: The figures that `verify` measured.
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
    # Not `cosine < bound`, because NaN must fail.
    if not cosine >= bound:
        word = {"min": "minimum", "mean": "mean"}[kind]
        yield f"{word} cosine to Keras {_number(cosine)} is below {bound:g}"
    if not artifact.is_exact:
        yield from change(artifact, figures, gates)


def _accuracy_change(
    artifact: ExportFormat, figures: dict[str, Any], gates: Gates
) -> Iterator[str]:
    change = figures["accuracy_change_points"]
    bound = gates.accuracy_bound(artifact, figures["num_pairs"])
    # Tolerance of a hundredth of a sentence: both accuracies are rounded sums.
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
    """Raises an error if an artifact failed a gate.

    Args:
        parity: The result of `verify`, or the contents of `parity.json`.

    Raises:
        GateError: If a gate failed. The message names each artifact, language
            and figure.
    """
    if parity["failures"]:
        raise GateError(
            "Every artifact must pass its gates. Received: "
            + "; ".join(parity["failures"])
            + ". Do not ship these artifacts: export other formats, or loosen the gates."
        )
