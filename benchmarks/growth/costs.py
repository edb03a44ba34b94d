"""The cost of a training, and the saving over another one. Does not import TensorFlow."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["forward_pass", "reached_at", "saving", "training"]


def forward_pass(body: int, head: int, predictions: int) -> int:
    """Returns the operations of a forward pass of a masked language model on one sequence.

    Args:
        body: `kdkeras.students.forward_flops` of the student. Its projection is
            the head, which is counted once.
        head: Operations of the head for one token, `2 d V`.
        predictions: Masked tokens per sequence. The head runs only for these.
    """
    return body + (predictions - 1) * head


def training(forward: int, rows: int, steps: int) -> int:
    """Returns the operations of `steps` training steps, each of three forward passes."""
    return 3 * forward * rows * steps


def reached_at(costs: Sequence[float], losses: Sequence[float], target: float) -> float | None:
    """Returns the cost at which a loss first falls to the target.

    The loss is interpolated linearly between two measurements.

    Args:
        costs: Cost at each measurement, increasing.
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
    """Returns the saved fraction of the cost from scratch; None if the target was not reached."""
    return None if cost is None else 1.0 - cost / scratch
