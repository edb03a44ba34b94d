"""Progress bars and messages on stderr."""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

__all__ = ["bar", "progress_bars", "say", "show", "show_progress"]


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
def show_progress() -> Iterator[contract.Progress]:
    """Draws one bar per task on stderr; a bar appears when its task starts.

    Yields:
        A function for `progress=` arguments: `progress(task, done, total)`. Two
        tasks are the same if their text up to the first comma is the same.
    """
    bars, tasks = progress_bars(), dict[str, TaskID]()

    def report(task: str, done: int, total: int) -> None:
        if not bars.live.is_started:
            bars.start()
        name = task.partition(",")[0]
        if name not in tasks:
            tasks[name] = bars.add_task(task, total=total, unit="")
        bars.update(tasks[name], description=task, completed=done, total=total)

    try:
        yield report
    finally:
        if bars.live.is_started:
            bars.stop()


@contextmanager
def bar(description: str, unit: str) -> Iterator[Callable[..., None]]:
    """Gives the function that moves one bar, which is drawn from its first call on.

    Args:
        description: What is being done.
        unit: What is counted, in the plural.

    Yields:
        `report(done, total)`, which also accepts `report(task, done, total)`.
    """
    progress = progress_bars()
    task = progress.add_task(description, total=None, unit=unit)

    def report(*call: Any) -> None:
        done, total = call[-2:]
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
