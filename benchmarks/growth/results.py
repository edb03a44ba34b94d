"""The results of runs in one JSON file, written when a run ends."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["Results", "spread", "write"]


def write(path: Path, text: str) -> None:
    """Writes a file under a temporary name and renames it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


class Results(dict[str, Any]):
    """Results by run. Completed runs are not repeated."""

    def __init__(self, path: Path) -> None:
        super().__init__(json.loads(path.read_text()) if path.exists() else {})
        self.path = path

    def add(self, key: str, figures: Any) -> None:
        """Adds the results of a run and writes the file."""
        self[key] = figures
        write(self.path, json.dumps(self, indent=1))


def spread(values: list[float], digits: int) -> str:
    """Returns the mean ± half the range; a single value has no range."""
    mean = f"{sum(values) / len(values):.{digits}f}"
    if len(values) == 1:
        return mean
    return f"{mean} ± {(max(values) - min(values)) / 2:.{digits}f}"
