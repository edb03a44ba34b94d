"""Writes the report of a training run: an HTML page and the same data as JSON."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdkeras.errors import InputError
from kdkeras.export.manifest import write_json
from kdkeras.export.page import render
from kdkeras.files import atomic_write

__all__ = ["REPORT", "REPORT_DATA", "write_report"]

REPORT = "report.html"
REPORT_DATA = "report.json"

Accuracy = Mapping[str, Mapping[str, float]]


def write_report(
    folder: str | os.PathLike[str],
    *,
    title: str,
    history: Mapping[str, Sequence[float]] | None = None,
    accuracy: Accuracy | None = None,
    parity: Mapping[str, Any] | None = None,
    details: Mapping[str, Any] | None = None,
    sizes: Mapping[str, Any] | None = None,
    growth: Mapping[str, Any] | None = None,
    ledger: Mapping[str, Any] | None = None,
) -> Path:
    """Writes `report.html` and `report.json`, replacing existing ones.

    The page needs no other file and no network, and follows the light or dark
    mode of the browser. Sections without data are omitted.

    Args:
        folder: Folder for the two files; created if it does not exist.
        title: Heading of the page.
        history: Name of a loss to one value per epoch, e.g. `History.history`
            from `fit` without metrics. Optional.
        accuracy: Name of a model (`"untrained"`, `"trained"`, `"teacher"`) to
            language to retrieval accuracy in [0, 1]. Models are shown in this
            order. Optional.
        parity: The result of `verify`. Optional.
        details: Further information by name, e.g. settings, data and training
            time. Optional.
        sizes: The record of `fit_size`. Optional.
        growth: The certificate of a grown student, `certificate.to_dict()`.
            Optional.
        ledger: The cost of the whole run, `FlopLedger.to_dict()`. Optional.

    Returns:
        The path of `report.html`.

    Raises:
        InputError: If an accuracy is not in [0, 1], or a file cannot be written.

    Example:
        >>> write_report("run", title="My student", parity=parity)  # doctest: +SKIP
    """
    _check(accuracy or {})
    content = {
        "title": title,
        "details": dict(details or {}),
        "history": {name: [float(v) for v in values] for name, values in (history or {}).items()},
        "accuracy": {name: dict(values) for name, values in (accuracy or {}).items()},
        "mean_accuracy": {name: _mean(values) for name, values in (accuracy or {}).items()},
        "parity": dict(parity) if parity else None,
        "sizes": dict(sizes) if sizes else None,
        "growth": dict(growth) if growth else None,
        "ledger": dict(ledger) if ledger else None,
    }
    folder = Path(folder)
    with atomic_write(folder / REPORT_DATA) as temporary:
        write_json(temporary, _strict(content))
    with atomic_write(folder / REPORT) as temporary:
        temporary.write_text(render(content), encoding="utf-8")
    return folder / REPORT


def _check(accuracy: Accuracy) -> None:
    for state, values in accuracy.items():
        for language, value in values.items():
            if not 0.0 <= value <= 1.0:
                raise InputError(
                    "`accuracy` must be between 0 and 1. "
                    f"Received: {state}, {language}: {value}. Divide percentages by 100."
                )


def _mean(values: Mapping[str, float]) -> float | None:
    return sum(values.values()) / len(values) if values else None


def _strict(value: Any) -> Any:
    """Replaces NaN and infinity, which JSON lacks, by null."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return value
