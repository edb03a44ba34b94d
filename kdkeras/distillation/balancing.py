"""Terms of different size, brought to one size while training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
from keras import ops

from kdkeras import replicas
from kdkeras.distillation.terms import WEIGHT_LOG, Terms, weighted_total
from kdkeras.errors import InputError
from kdkeras.losses.base import ExampleLoss

__all__ = ["LossBalancing", "RunningMagnitude", "UncertaintyWeighting", "Weighed", "weigh"]


class Weighed(NamedTuple):
    """Terms of a batch, weighed."""

    total: Any
    """Sum over the rows of what is minimised, float32 scalar."""
    weights: dict[str, Any]
    """What each term was multiplied by, where that changes while training."""

    def logged(self, terms: Terms, count: Any) -> Terms:
        """Returns all that is logged, as sums over rows."""
        weights = {f"{WEIGHT_LOG}{name}": w * count for name, w in self.weights.items()}
        return {"loss": self.total, **terms, **weights}


class LossBalancing(keras.layers.Layer):
    """Base class: what terms are multiplied by, besides their weights.

    A layer, so that what it remembers or trains is saved with the Distiller,
    to which it belongs. Computes in float32; all replicas hold the same state.
    Subclasses implement `add_name` and `weigh`, and `update` if they remember.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.names: list[str] = []

    def add_names(self, names: list[str]) -> None:
        """Creates the state of every loss, and of the task loss.

        Raises:
            InputError: If another Distiller has it.
        """
        if self.names:
            raise InputError(
                "A balancing belongs to one Distiller. Received: one that balances "
                f"{list(self.names)}. Make another {type(self).__name__}."
            )
        self.names = list(names)
        for name in names:
            self.add_name(name)
        self.built = True

    def add_name(self, name: str) -> None:
        """Creates the state of one loss."""
        raise NotImplementedError(f"{type(self).__name__} must implement `add_name`.")

    def check_losses(self, losses: Mapping[str, ExampleLoss]) -> None:
        """Refuses losses that cannot be balanced so.

        Raises:
            InputError: Naming the loss.
        """

    def trained(self, name: str) -> list[keras.Variable]:
        """Returns what is trained for a loss."""
        return []

    def weigh(self, terms: Terms, weights: Mapping[str, Any], count: Any) -> Weighed:
        """Weighs the terms of a batch.

        Args:
            terms: Sums over this replica's rows, by name.
            weights: Weights by name; 1.0 where left out.
            count: Number of this replica's rows.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `weigh`.")

    def update(self, terms: Terms, finite: Any) -> None:
        """Takes note of a step.

        Args:
            terms: What this replica adds to the mean of each term over the
                step's rows.
            finite: Scalar bool; where false, nothing may change.
        """


def weigh(
    terms: Terms, weights: Mapping[str, Any], count: Any, balancing: LossBalancing | None
) -> Weighed:
    """Weighs the terms of a batch, balanced or with their weights alone."""
    if balancing is not None:
        return balancing.weigh(terms, weights, count)
    changing = {n: w for n, w in weights.items() if n in terms and not isinstance(w, float)}
    return Weighed(weighted_total(terms, weights), changing)


@keras.saving.register_keras_serializable(package="kdkeras")
class RunningMagnitude(LossBalancing):
    """Divides every term by a running mean of its own size.

    `loss_weights` are then the relative importance of the terms, whatever
    their units, and stay so while the terms shrink. Nothing is trained. A
    step is weighed by the steps before it, the first one by itself.

    Formula, for the mean `term` over the rows of step `t` (of all replicas):

    ```
    loss = sum_k(weight_k / max(size_k, epsilon) * term_k)
    size_k = m_k / (1 - momentum^t),    m_k = momentum * m_k + (1 - momentum) * |term_k|
    ```

    Args:
        momentum: Share of the old mean that a step keeps, from 0 to below 1.
            Defaults to 0.99, about the last hundred steps.
        epsilon: The smallest size that is divided by, above 0. A term that
            falls below it fades. Defaults to 1e-4.

    Raises:
        InputError: If an argument is out of its range.

    References:
        Lakkapragada et al. (2022), arXiv:2211.12999, section 3.
    """

    def __init__(
        self,
        momentum: float = 0.99,
        epsilon: float = 1e-4,
        name: str = "running_magnitude",
        **kwargs: Any,
    ) -> None:
        super().__init__(name=name, **kwargs)
        if not 0 <= momentum < 1:
            raise InputError(
                "`momentum` must be at least 0 and below 1. "
                f"Received: momentum={momentum}. Use 0.99 if in doubt."
            )
        if not epsilon > 0:
            raise InputError(
                f"`epsilon` must be above 0. Received: epsilon={epsilon}. Use 1e-4 if in doubt."
            )
        self.momentum, self.epsilon = float(momentum), float(epsilon)
        self.sizes: dict[str, keras.Variable] = {}
        self.steps: dict[str, keras.Variable] = {}

    def add_name(self, name: str) -> None:
        """Creates the running mean of a loss, and how many steps it has seen."""
        for kind, found in (("size", self.sizes), ("steps", self.steps)):
            found[name] = self.add_weight(
                shape=(),
                initializer="zeros",
                trainable=False,
                # All replicas write the same.
                aggregation="only_first_replica",
                name=f"{kind}_{name}",
            )

    def weigh(self, terms: Terms, weights: Mapping[str, Any], count: Any) -> Weighed:
        """Weighs the terms of a batch by their sizes in the steps before it."""
        balanced = [name for name in terms if name in self.names]
        own = replicas.total(ops.stack([count, *(terms[name] for name in balanced)]))
        sizes = ops.stop_gradient(ops.abs(own[1:] / own[0]))
        found = dict(weights)
        for i, name in enumerate(balanced):
            steps = self.steps[name].value
            seen = 1.0 - ops.power(self.momentum, ops.maximum(steps, 1.0))
            size = ops.where(steps > 0, self.sizes[name].value / seen, sizes[i])
            found[name] = weights.get(name, 1.0) / ops.maximum(size, self.epsilon)
        return Weighed(weighted_total(terms, found), {name: found[name] for name in balanced})

    def update(self, terms: Terms, finite: Any) -> None:
        """Moves the running means on."""
        balanced = [name for name in terms if name in self.names]
        means = ops.abs(replicas.total(ops.stack([terms[name] for name in balanced])))
        for i, name in enumerate(balanced):
            size, steps = self.sizes[name], self.steps[name]
            moved = self.momentum * size.value + (1.0 - self.momentum) * means[i]
            size.assign(ops.where(finite, moved, size.value))
            steps.assign(steps.value + ops.cast(finite, "float32"))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="kdkeras")
class UncertaintyWeighting(LossBalancing):
    """Learns how much each term can be trusted, with one trained number a term.

    At the optimum of `s` a term is divided by its own size, so that
    `loss_weights` are relative importances; `s` follows as fast as the
    optimizer moves it. The total loss may become negative.

    Formula:

    ```
    loss = sum_k(weight_k * (exp(-s_k) * term_k + s_k)),    s_k trained, 0 at first
    ```

    For terms that are not negative; others are refused.

    References:
        Kendall, Gal, Cipolla (2018), arXiv:1705.07115, equation 7 with
        `s = log(sigma^2)` and without its factor of 1/2.
    """

    def __init__(self, name: str = "uncertainty_weighting", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.log_variances: dict[str, keras.Variable] = {}

    def add_name(self, name: str) -> None:
        """Creates the trained number of a loss."""
        self.log_variances[name] = self.add_weight(
            shape=(), initializer="zeros", name=f"log_variance_{name}"
        )

    def check_losses(self, losses: Mapping[str, ExampleLoss]) -> None:
        """Refuses losses with a negative least value: their weights would grow without end.

        Raises:
            InputError: Naming the first.
        """
        for name, loss in losses.items():
            if loss.may_be_negative:
                raise InputError(
                    "Uncertainty weighting takes losses that are not negative. Received: "
                    f"{name!r}, a {type(loss).__name__} that may be. Use RunningMagnitude, or for "
                    'cosines EmbeddingDistillation("cosine").'
                )

    def trained(self, name: str) -> list[keras.Variable]:
        """Returns the trained number of a loss."""
        return [self.log_variances[name]]

    def weigh(self, terms: Terms, weights: Mapping[str, Any], count: Any) -> Weighed:
        """Weighs the terms of a batch, and adds what keeps the weights from zero."""
        balanced = [name for name in terms if name in self.names]
        found, penalty = dict(weights), 0.0
        for name in balanced:
            weight = weights.get(name, 1.0)
            log_variance = self.log_variances[name].value
            found[name] = weight * ops.exp(-log_variance)
            penalty = penalty + weight * log_variance
        total = weighted_total(terms, found) + penalty * count
        return Weighed(total, {name: ops.stop_gradient(found[name]) for name in balanced})
