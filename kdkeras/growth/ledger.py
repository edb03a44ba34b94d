"""What a whole run costs, from the small student to the trained large one."""

from __future__ import annotations

import dataclasses
from typing import Any

from kdkeras.errors import InputError
from kdkeras.growth.flops import forward_flops

__all__ = ["FlopLedger", "Posting"]

FORWARD_AND_BACKWARD = 3
"""A training step in forward passes: one, and two products backward for each."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Posting:
    """One part of a run.

    Attributes:
        name: What was done, e.g. `"small run"`.
        flops: Floating point operations, 0 or more.
    """

    name: str
    flops: int


@dataclasses.dataclass(frozen=True)
class FlopLedger:
    """The floating point operations of a run, part by part; see `forward_flops` for one.

    Formula, for `n` steps of `B` sentences (of a pair both count):

    ```
    training: n * B * 3 * forward_flops(model, length)
    teacher:  sentences * forward
    growth:   the products with E and F (`Certificate.flops_growth`)
    ```

    Optimizer steps and losses are not counted. Every method returns a longer
    ledger.

    Attributes:
        postings: The parts, in their order.

    Example:
    >>> ledger = FlopLedger().add("teacher", 300).add("main run", 700)
    >>> ledger.total, ledger.shares()
    (1000, {'teacher': 0.3, 'main run': 0.7})
    """

    postings: tuple[Posting, ...] = ()

    def add(self, name: str, flops: int) -> FlopLedger:
        """Adds a part whose cost is known.

        Raises:
            InputError: If the number is negative, or the name is there already.
        """
        if flops < 0 or int(flops) != flops:
            raise InputError(
                f"A part costs a whole number of operations. Received: {name}={flops}. "
                "Count multiplications and additions."
            )
        if name in self.shares():
            raise InputError(
                f"Every part has a name of its own. Received: {name!r} twice. Choose another."
            )
        return FlopLedger((*self.postings, Posting(name=name, flops=int(flops))))

    def add_training(
        self, name: str, model: Any, *, steps: int, sentences: int, length: int
    ) -> FlopLedger:
        """Adds a training.

        Args:
            name: Name of the part.
            model: The student.
            steps: Number of steps.
            sentences: Sentences a step; of `B` pairs `2 * B`.
            length: Tokens of a sentence, padding and all.
        """
        once = FORWARD_AND_BACKWARD * forward_flops(model, length)
        return self.add(name, steps * sentences * once)

    def add_forward(self, name: str, model: Any, *, sentences: int, length: int) -> FlopLedger:
        """Adds forward passes alone, of a teacher whose size `forward_flops` knows."""
        return self.add(name, sentences * forward_flops(model, length))

    @property
    def total(self) -> int:
        """Operations of all parts together."""
        return sum(posting.flops for posting in self.postings)

    def shares(self) -> dict[str, float]:
        """Returns the share of each part, 0 to 1."""
        return {p.name: p.flops / self.total if self.total else 0.0 for p in self.postings}

    def to_dict(self) -> dict[str, Any]:
        """Returns the parts and their sum, ready for JSON."""
        return {"postings": [dataclasses.asdict(p) for p in self.postings], "total": self.total}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> FlopLedger:
        """Returns the ledger that `to_dict` described."""
        return cls(tuple(Posting(**posting) for posting in data["postings"]))
