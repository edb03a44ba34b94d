"""The one contract of `progress=` arguments."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Progress", "no_progress"]


class Progress(Protocol):
    """A function that is called while work proceeds: `progress(task, done, total)`.

    It is called at the start with `done=0` and at the end with `done == total`.

    Args:
        task: Short description of the work, e.g. `"Embedding sentences"`. The part
            after a comma may change during the task.
        done: Number of completed units of the task.
        total: Number of all units of the task.

    Example:
        >>> def progress(task: str, done: int, total: int) -> None:
        ...     print(f"{task}: {done} of {total}")
    """

    def __call__(self, task: str, done: int, total: int) -> None:
        """Reports how much of a task is done."""


def no_progress(task: str, done: int, total: int) -> None:
    """Reports nothing; the default."""
