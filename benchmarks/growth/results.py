"""Figures of runs in one JSON file, written as soon as a run ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["Results", "spread", "write"]


def write(path: Path, text: str) -> None:
    """Writes under a temporary name, then renames."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


class Results(dict[str, Any]):
    """Figures by run; a run that is there is not repeated."""

    def __init__(self, path: Path) -> None:
        super().__init__(json.loads(path.read_text()) if path.exists() else {})
        self.path = path

    def add(self, key: str, figures: Any) -> None:
        """Keeps a run's figures."""
        self[key] = figures
        write(self.path, json.dumps(self, indent=1))


def spread(values: list[float], digits: int) -> str:
    """Mean ± half the distance between the highest and the lowest; one value has none."""
    mean = f"{sum(values) / len(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {(max(values) - min(values)) / 2:.{digits}f}"
