"""Progress bars and messages on stderr."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from kdkeras import progress as contract

__all__ = ["say", "show", "show_progress"]


@contextmanager
def show_progress() -> Iterator[contract.Progress]:
    """Draws one bar per task on stderr; a bar appears when its task starts.

    Yields:
        A function for `progress=` arguments: `progress(task, done, total)`. Two
        tasks are the same if their text up to the first comma is the same.
    """
    bars = Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )
    tasks: dict[str, TaskID] = {}

    def report(task: str, done: int, total: int) -> None:
        if not bars.live.is_started:
            bars.start()
        name = task.partition(",")[0]
        if name not in tasks:
            tasks[name] = bars.add_task(task, total=total)
        bars.update(tasks[name], description=task, completed=done, total=total)

    try:
        yield report
    finally:
        if bars.live.is_started:
            bars.stop()


def say(line: str) -> None:
    """Writes one line to stderr."""
    Console(stderr=True, highlight=False, markup=False, soft_wrap=True).print(line)


def show(part: Any) -> None:
    """Prints a table on stderr."""
    Console(stderr=True).print(part)
