"""The cost of a whole run, from the small student to the trained large one."""

from __future__ import annotations

import dataclasses
from typing import Any

from kdkeras.errors import InputError
from kdkeras.students import forward_flops

__all__ = ["FlopLedger", "Posting"]

FORWARD_AND_BACKWARD = 3
"""Cost of a training step in forward passes: two backward products per forward product."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Posting:
    """One part of a run.

    Attributes:
        name: Name of the part, e.g. `"small run"`.
        flops: Number of floating-point operations, 0 or more.
    """

    name: str
    flops: int


@dataclasses.dataclass(frozen=True)
class FlopLedger:
    """The floating-point operations of a run, by part.

    See `kdkeras.students.forward_flops` for the cost of one forward pass.

    Formula, for `n` steps of `B` sentences (both sentences of a pair count):

    ```
    training: n * B * 3 * forward_flops(model, length)
    teacher:  sentences * forward
    growth:   the products with E and F (`Certificate.flops_growth`)
    ```

    Optimizer steps and losses are not counted. The `add` methods return a new ledger.

    Attributes:
        postings: The parts, in order.

    Example:
    >>> ledger = FlopLedger().add("teacher", 300).add("main run", 700)
    >>> ledger.total, ledger.shares()
    (1000, {'teacher': 0.3, 'main run': 0.7})
    """

    postings: tuple[Posting, ...] = ()

    def add(self, name: str, flops: int) -> FlopLedger:
        """Returns the ledger with a part of known cost added.

        Args:
            name: Name of the part, unique in the ledger.
            flops: Number of floating-point operations, an integer of at least 0.

        Raises:
            InputError: If `flops` is negative or not an integer, or the name already
                exists.
        """
        if flops < 0 or int(flops) != flops:
            raise InputError(
                f"`flops` must be an integer of at least 0. Received: {name}={flops}. "
                "Count multiplications and additions."
            )
        if name in self.shares():
            raise InputError(
                f"Names of parts must be unique. Received: {name!r} twice. Choose another name."
            )
        return FlopLedger((*self.postings, Posting(name=name, flops=int(flops))))

    def add_training(
        self, name: str, model: Any, *, steps: int, sentences: int, length: int
    ) -> FlopLedger:
        """Returns the ledger with a training run added.

        Args:
            name: Name of the part.
            model: The student.
            steps: Number of training steps.
            sentences: Sentences per step; for `B` pairs `2 * B`.
            length: Tokens per sentence, including padding.
        """
        once = FORWARD_AND_BACKWARD * forward_flops(model, length)
        return self.add(name, steps * sentences * once)

    def add_forward(self, name: str, model: Any, *, sentences: int, length: int) -> FlopLedger:
        """Returns the ledger with forward passes added, e.g. those of the teacher.

        Args:
            name: Name of the part.
            model: A model that `forward_flops` supports.
            sentences: Number of sentences.
            length: Tokens per sentence, including padding.
        """
        return self.add(name, sentences * forward_flops(model, length))

    @property
    def total(self) -> int:
        """The sum over all parts."""
        return sum(posting.flops for posting in self.postings)

    def shares(self) -> dict[str, float]:
        """Returns the fraction of each part, from 0 to 1."""
        return {p.name: p.flops / self.total if self.total else 0.0 for p in self.postings}

    def to_dict(self) -> dict[str, Any]:
        """Returns the parts and their sum as a JSON-serializable dict."""
        return {"postings": [dataclasses.asdict(p) for p in self.postings], "total": self.total}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FlopLedger:
        """Creates the ledger that `to_dict` described."""
        return cls(tuple(Posting(**posting) for posting in data["postings"]))
