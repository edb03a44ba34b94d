"""What a training costs, and what one saves against another: no TensorFlow needed."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["forward_pass", "reached_at", "saving", "training"]


def forward_pass(body: int, head: int, predictions: int) -> int:
    """Operations of a forward pass of a masked language model on one sequence.

    Args:
        body: `kdkeras.students.forward_flops` of the student, whose projection is
            the head; it counts the head once.
        head: Operations of the head for one token, `2 d V`.
        predictions: Masked tokens of a sequence, for which alone the head runs.
    """
    return body + (predictions - 1) * head


def training(forward: int, rows: int, steps: int) -> int:
    """Operations of so many training steps: forward, and two products backward for each."""
    return 3 * forward * rows * steps


def reached_at(costs: Sequence[float], losses: Sequence[float], target: float) -> float | None:
    """Returns the cost at which a loss first falls to the target.

    Between two measurements the loss is taken as a straight line.

    Args:
        costs: Ascending.
        losses: The loss at each cost.
        target: The loss to reach.

    Returns:
        The cost, or None if the target is never reached.
    """
    for place, loss in enumerate(losses):
        if loss > target:
            continue
        if place == 0:
            return float(costs[0])
        before = losses[place - 1]
        share = (before - target) / (before - loss)
        return float(costs[place - 1] + share * (costs[place] - costs[place - 1]))
    return None


def saving(cost: float | None, scratch: float) -> float | None:
    """Share of the cost from scratch that is not spent; None if the target was not reached."""
    return None if cost is None else 1.0 - cost / scratch
