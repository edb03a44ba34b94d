"""Weights that bring loss terms of different magnitude to the same scale during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
from keras import ops

from kdkeras import replicas
from kdkeras.distillation.terms import WEIGHT_LOG, Terms, weighted_total
from kdkeras.errors import InputError
from kdkeras.losses.base import ExampleLoss

__all__ = [
    "LossBalancing",
    "RunningMagnitude",
    "UncertaintyWeighting",
    "WeightedTerms",
    "weight_terms",
]


class WeightedTerms(NamedTuple):
    """The weighted terms of a batch."""

    total: Any
    """Sum over the rows of the loss that is minimized, float32 scalar."""
    weights: dict[str, Any]
    """Weights that change during training, by name of their term."""

    def logs(self, terms: Terms, count: Any) -> Terms:
        """Returns all logged values, as sums over `count` rows."""
        weights = {f"{WEIGHT_LOG}{name}": w * count for name, w in self.weights.items()}
        return {"loss": self.total, **terms, **weights}


class LossBalancing(keras.layers.Layer):
    """Base class: multiplies loss terms by factors that depend on the training.

    It is a layer, so its variables are saved with the Distiller that owns it.
    It computes in float32; all replicas hold the same state. Subclasses
    implement `create_variables` and `weight_terms`, and `update` if they have
    a state that is not trained.
    """

    def __init__(self, **kwargs: Any) -> None:
        kwargs.setdefault("dtype", "float32")
        super().__init__(**kwargs)
        self.names: list[str] = []

    def attach(self, names: list[str]) -> None:
        """Creates the variables for every loss of a Distiller, and for the task loss.

        Raises:
            InputError: If another Distiller uses this object.
        """
        if self.names:
            raise InputError(
                "A LossBalancing belongs to one Distiller. Received: one that balances "
                f"{list(self.names)}. Create another {type(self).__name__}."
            )
        self.names = list(names)
        for name in names:
            self.create_variables(name)
        self.built = True

    def create_variables(self, name: str) -> None:
        """Creates the variables for one loss."""
        raise NotImplementedError(f"{type(self).__name__} must implement `create_variables`.")

    def check_losses(self, losses: Mapping[str, ExampleLoss]) -> None:
        """Raises if a loss cannot be balanced.

        Raises:
            InputError: Naming the loss.
        """

    def trained(self, name: str) -> list[keras.Variable]:
        """Returns the trainable variables for a loss."""
        return []

    def weight_terms(self, terms: Terms, weights: Mapping[str, Any], count: Any) -> WeightedTerms:
        """Weights the terms of a batch.

        Args:
            terms: Sums over this replica's rows, by name.
            weights: Weights by name, 1.0 by default.
            count: Number of this replica's rows.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement `weight_terms`.")

    def update(self, terms: Terms, finite: Any) -> None:
        """Updates the state after a training step.

        Args:
            terms: This replica's share of the mean of each term over all rows
                of the step.
            finite: Scalar bool; if false, the state must not change.
        """


def weight_terms(
    terms: Terms, weights: Mapping[str, Any], count: Any, balancing: LossBalancing | None
) -> WeightedTerms:
    """Weights the terms of a batch, with or without a balancing."""
    if balancing is not None:
        return balancing.weight_terms(terms, weights, count)
    changing = {n: w for n, w in weights.items() if n in terms and not isinstance(w, float)}
    return WeightedTerms(weighted_total(terms, weights), changing)


@keras.saving.register_keras_serializable(package="kdkeras")
class RunningMagnitude(LossBalancing):
    """Divides every loss term by a running mean of its magnitude.

    `loss_weights` then express the relative importance of the terms,
    independent of their scale, also while the terms decrease. Nothing is
    trained. A step uses the magnitudes of earlier steps; the first step uses
    its own.

    Formula, for the mean `term` over the rows of step `t` (of all replicas):

    ```
    loss = sum_k(weight_k / max(magnitude_k, epsilon) * term_k)
    magnitude_k = m_k / (1 - momentum^t),    m_k = momentum * m_k + (1 - momentum) * |term_k|
    ```

    Args:
        momentum: Decay of the running mean per step, at least 0 and below 1.
            Defaults to 0.99, about the last hundred steps.
        epsilon: Minimum of the divisor, above 0. A term that falls below it
            loses influence. Defaults to 1e-4.

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
        self.magnitudes: dict[str, keras.Variable] = {}
        self.steps: dict[str, keras.Variable] = {}

    def create_variables(self, name: str) -> None:
        """Creates the running mean of a loss, and its number of steps."""
        for kind, variables in (("magnitude", self.magnitudes), ("steps", self.steps)):
            variables[name] = self.add_weight(
                shape=(),
                initializer="zeros",
                trainable=False,
                # All replicas write the same value.
                aggregation="only_first_replica",
                name=f"{kind}_{name}",
            )

    def weight_terms(self, terms: Terms, weights: Mapping[str, Any], count: Any) -> WeightedTerms:
        """Weights the terms of a batch by their magnitudes in earlier steps."""
        balanced = [name for name in terms if name in self.names]
        sums = replicas.total(ops.stack([count, *(terms[name] for name in balanced)]))
        own = ops.stop_gradient(ops.abs(sums[1:] / sums[0]))
        found = dict(weights)
        for i, name in enumerate(balanced):
            steps = self.steps[name].value
            correction = 1.0 - ops.power(self.momentum, ops.maximum(steps, 1.0))
            earlier = self.magnitudes[name].value / correction
            magnitude = ops.where(steps > 0, earlier, own[i])
            found[name] = weights.get(name, 1.0) / ops.maximum(magnitude, self.epsilon)
        return WeightedTerms(weighted_total(terms, found), {name: found[name] for name in balanced})

    def update(self, terms: Terms, finite: Any) -> None:
        """Updates the running means."""
        balanced = [name for name in terms if name in self.names]
        means = ops.abs(replicas.total(ops.stack([terms[name] for name in balanced])))
        for i, name in enumerate(balanced):
            magnitude, steps = self.magnitudes[name], self.steps[name]
            updated = self.momentum * magnitude.value + (1.0 - self.momentum) * means[i]
            magnitude.assign(ops.where(finite, updated, magnitude.value))
            steps.assign(steps.value + ops.cast(finite, "float32"))

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments."""
        return {**super().get_config(), "momentum": self.momentum, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="kdkeras")
class UncertaintyWeighting(LossBalancing):
    """Learns the weight of every loss term, with one trained scalar per term.

    At the optimum of `s` a term is divided by its own magnitude, so
    `loss_weights` express relative importance; `s` changes as fast as the
    optimizer moves it. The total loss can become negative.

    Formula:

    ```
    loss = sum_k(weight_k * (exp(-s_k) * term_k + s_k)),    s_k trained, initially 0
    ```

    Only for losses that are never negative; others raise an error.

    References:
        Kendall, Gal, Cipolla (2018), arXiv:1705.07115, equation 7 with
        `s = log(sigma^2)` and without its factor of 1/2.
    """

    def __init__(self, name: str = "uncertainty_weighting", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.log_variances: dict[str, keras.Variable] = {}

    def create_variables(self, name: str) -> None:
        """Creates the trained scalar of a loss."""
        self.log_variances[name] = self.add_weight(
            shape=(), initializer="zeros", name=f"log_variance_{name}"
        )

    def check_losses(self, losses: Mapping[str, ExampleLoss]) -> None:
        """Raises for losses that can be negative: their weights would grow without limit.

        Raises:
            InputError: Naming the first.
        """
        for name, loss in losses.items():
            if loss.may_be_negative:
                raise InputError(
                    "UncertaintyWeighting needs losses that are never negative. Received: "
                    f"{name!r}, a {type(loss).__name__}, which can be. Use RunningMagnitude, or "
                    'for cosines EmbeddingDistillation("cosine").'
                )

    def trained(self, name: str) -> list[keras.Variable]:
        """Returns the trained scalar of a loss."""
        return [self.log_variances[name]]

    def weight_terms(self, terms: Terms, weights: Mapping[str, Any], count: Any) -> WeightedTerms:
        """Weights the terms of a batch, and adds the penalty that keeps the weights above zero."""
        balanced = [name for name in terms if name in self.names]
        found, penalty = dict(weights), 0.0
        for name in balanced:
            weight = weights.get(name, 1.0)
            log_variance = self.log_variances[name].value
            found[name] = weight * ops.exp(-log_variance)
            penalty = penalty + weight * log_variance
        total = weighted_total(terms, found) + penalty * count
        return WeightedTerms(total, {name: ops.stop_gradient(found[name]) for name in balanced})
