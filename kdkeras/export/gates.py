"""How far an artefact may be from Keras."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from kdkeras.errors import GateError, InputError
from kdkeras.export.formats import ExportFormat

__all__ = ["Gates", "check_gates", "failures"]

# A change below this many sentences of a language is not told from chance.
_SENTENCES = 1.5


@dataclass(frozen=True, kw_only=True)
class Gates:
    """The bounds that an artefact passes in every language, or does not ship.

    Attributes:
        float32_cosine_min: Least cosine of any sentence, for artefacts with
            the student's own float32 weights.
        int8_cosine_mean: Mean cosine, for int8.
        int8_accuracy_change_points: Change of retrieval accuracy in percentage points
            (at most 0), for int8. In a small language one sentence is more than a
            point (`100 / num_pairs`), and near ties fall either way by chance;
            the bound is therefore never tighter than 1.5 sentences, three of
            the `2 * num_pairs` queries lost on balance. At 150 pairs and more
            the default is a full point.

    Raises:
        InputError: If a bound is out of range.
    """

    float32_cosine_min: float = 0.99999
    int8_cosine_mean: float = 0.99
    int8_accuracy_change_points: float = -1.0

    def __post_init__(self) -> None:
        for name in ("float32_cosine_min", "int8_cosine_mean"):
            value = getattr(self, name)
            if not -1.0 <= value <= 1.0:
                raise InputError(f"`{name}` must be between -1 and 1. Received: {name}={value}.")
        if not -100.0 <= self.int8_accuracy_change_points <= 0.0:
            raise InputError(
                "`int8_accuracy_change_points` must be between -100 and 0 points. "
                f"Received: int8_accuracy_change_points={self.int8_accuracy_change_points}."
            )

    def accuracy_bound(self, num_pairs: int) -> float:
        """The least change of accuracy, in points, for a language's pairs."""
        return -max(-self.int8_accuracy_change_points, _SENTENCES / num_pairs * 100.0)

    def to_dict(self) -> dict[str, float]:
        """Returns the bounds by name."""
        return asdict(self)


def failures(parity: dict[str, Any], gates: Gates) -> list[str]:
    """Lists what fails, each as one phrase: artefact, language, figure, bound.

    Args:
        parity: What `verify` measured.
        gates: The bounds.
    """
    return [
        f"{name} in {language}: {message}"
        for name, artefact in parity["artefacts"].items()
        for language, figures in artefact["languages"].items()
        for message in _language_failures(ExportFormat(name), figures, gates)
    ]


def _language_failures(
    artefact: ExportFormat, figures: dict[str, Any], gates: Gates
) -> Iterator[str]:
    if artefact.is_exact:
        least, bound = figures["cosine_min"], gates.float32_cosine_min
        # Not the reverse comparison: NaN must fail.
        if not least >= bound:
            yield f"least cosine to Keras {_number(least)} is below {bound:g}"
        return
    mean, bound = figures["cosine_mean"], gates.int8_cosine_mean
    if not mean >= bound:
        yield f"mean cosine to Keras {_number(mean)} is below {bound:g}"
    change = figures["accuracy_change_points"]
    bound = gates.accuracy_bound(figures["num_pairs"])
    # A hundredth of a sentence: the two accuracies are rounded sums.
    if not change >= bound - 0.01 * 100.0 / figures["num_pairs"]:
        yield f"retrieval accuracy changed by {change:+.2f} points, the bound is {bound:+.2f}"


def _number(value: float) -> str:
    return "NaN" if math.isnan(value) else f"{value:.6f}"


def check_gates(parity: dict[str, Any]) -> None:
    """Raises if an artefact did not pass.

    Args:
        parity: What `verify` returned, or what `parity.json` holds.

    Raises:
        GateError: Naming each artefact, language and figure.
    """
    if parity["failures"]:
        raise GateError(
            "An artefact differs too much from Keras. "
            + "; ".join(parity["failures"])
            + ". Do not ship it; export without that format, or loosen the gate."
        )
