"""What the parts of a training step add up to."""

from __future__ import annotations

from typing import Any

from kdkeras.distillation.terms import Terms
from kdkeras.distillation.update import Gradients, add_gradients

__all__ = ["StepSum"]


class StepSum:
    """What the micro-batches of one step give, added up before the one update.

    Attributes:
        gradients: Gradient of the loss by each weight, of this replica's rows.
        terms: Sums over this replica's rows, by name.
        targets: What the teacher said of each part's rows.
        finite: Whether all losses are finite on all replicas, a scalar bool.
    """

    def __init__(self) -> None:
        self.gradients: Gradients = []
        self.terms: Terms = {}
        self.targets: list[dict[str, Any]] = []
        self.finite: Any = True

    def add(self, gradients: Gradients, terms: Terms, targets: dict[str, Any], finite: Any) -> None:
        """Adds one part."""
        self.gradients = add_gradients(self.gradients or None, gradients)
        self.terms = {name: value + self.terms.get(name, 0.0) for name, value in terms.items()}
        self.targets.append(targets)
        self.finite = finite & self.finite
