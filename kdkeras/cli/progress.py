"""Progress bars, on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

__all__ = ["bar", "progress_bars", "say", "show"]


def progress_bars() -> Progress:
    """Returns bars with counts and times, drawn on stderr."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


@contextmanager
def bar(description: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Gives the function that moves one bar, which is drawn from its first call on.

    Args:
        description: What is being done.
        unit: What is counted, in the plural.

    Yields:
        `report(done, total)`.
    """
    progress = progress_bars()
    task = progress.add_task(description, total=None, unit=unit)

    def report(done: int, total: int) -> None:
        if not progress.live.is_started:
            progress.start()
        progress.update(task, completed=done, total=total)

    try:
        yield report
    finally:
        if progress.live.is_started:
            progress.stop()


def say(line: str) -> None:
    """Writes one line to stderr."""
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(line)


def show(part: Any) -> None:
    """Draws a table on stderr."""
    Console(stderr=True).print(part)
