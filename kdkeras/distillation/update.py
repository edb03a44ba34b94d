"""Applies gradients, with the same result on one replica and on several."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kdkeras import replicas
from kdkeras.distillation.terms import Terms
from kdkeras.errors import InputError

__all__ = [
    "AccumulatedStep",
    "accepts_sparse",
    "add_gradients",
    "apply_gradients",
    "inner",
    "refuse_unfit_optimizer",
    "refuse_unfit_precision",
    "refuse_unfit_strategy",
]

Gradients = list[Any]
"""One entry per weight: a tensor, `tf.IndexedSlices`, or None."""


def inner(optimizer: keras.Optimizer) -> keras.Optimizer:
    """Returns the optimizer inside a `LossScaleOptimizer`, or the optimizer."""
    return getattr(optimizer, "inner_optimizer", optimizer)


def accepts_sparse(optimizer: keras.Optimizer) -> bool:
    """Returns whether an optimizer uses sparse gradients to update single rows of a table."""
    return getattr(optimizer, "accepts_sparse_gradients", False)


def add_gradients(total: Gradients | None, gradients: Gradients) -> Gradients:
    """Returns `total`, the gradients so far, plus those of another part of the batch."""
    if total is None:
        return gradients
    return [_sum(a, b) for a, b in zip(total, gradients, strict=True)]


def _sum(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    if isinstance(a, tf.IndexedSlices) and isinstance(b, tf.IndexedSlices):
        values, rows = tf.concat([a.values, b.values], 0), tf.concat([a.indices, b.indices], 0)
        return tf.IndexedSlices(values, rows, a.dense_shape)
    return tf.convert_to_tensor(a) + tf.convert_to_tensor(b)


class AccumulatedStep:
    """Gradients and terms of the micro-batches of one step, added up before its one update.

    Attributes:
        gradients: Gradients of the loss on this replica's rows.
        terms: Sums over this replica's rows, by name.
        targets: The teacher's targets of each micro-batch.
        finite: Whether all losses are finite on all replicas, a scalar bool.
    """

    def __init__(self) -> None:
        self.gradients: Gradients = []
        self.terms: Terms = {}
        self.targets: list[dict[str, Any]] = []
        self.finite: Any = True

    def add(self, gradients: Gradients, terms: Terms, targets: dict[str, Any], finite: Any) -> None:
        """Adds one micro-batch."""
        self.gradients = add_gradients(self.gradients or None, gradients)
        self.terms = {name: value + self.terms.get(name, 0.0) for name, value in terms.items()}
        self.targets.append(targets)
        self.finite = finite & self.finite


def apply_gradients(
    optimizer: keras.Optimizer, gradients: Gradients, weights: list[Any], finite: Any
) -> None:
    """Updates the weights once, unless the step's loss is not finite.

    Args:
        optimizer: The optimizer.
        gradients: This replica's share of the gradients.
        weights: Keras variables.
        finite: Scalar bool, the same on all replicas. If false, weights and
            moments do not change; a callback then stops the training.
    """
    if not accepts_sparse(optimizer):
        # Keras 3.15's optimizers square IndexedSlices before they add up equal
        # rows, so a token that occurs twice would get a wrong second moment.
        gradients = [_dense(g, weight) for g, weight in zip(gradients, weights, strict=True)]
    if replicas.num_replicas() > 1 and _clips(optimizer):
        gradients = _clip_globally(optimizer, gradients)
    _apply_if_finite(finite, gradients, lambda g: optimizer.apply(g, weights), optimizer)


def _dense(gradient: Any, weight: Any) -> Any:
    """Adds up the gradients of equal rows in a tensor of the weight's shape."""
    if not isinstance(gradient, tf.IndexedSlices):
        return gradient
    # TensorFlow's own conversion has no static number of rows.
    return tf.math.unsorted_segment_sum(gradient.values, gradient.indices, weight.shape[0])


def _apply_if_finite(
    finite: Any, gradients: Gradients, update: Callable[[Gradients], Any], optimizer: Any
) -> None:
    context = tf.distribute.get_replica_context()
    if tf.__internal__.distribute.strategy_supports_no_merge_call():
        ops.cond(finite, lambda: update(gradients), lambda: None)
    elif isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        # It skips non-finite gradients itself, in the way below.
        update(gradients)
    else:

        def merge(strategy: tf.distribute.Strategy, finite: Any, gradients: Gradients) -> None:
            # An update synchronizes the replicas, which a branch inside one replica may not do.
            ops.cond(
                strategy.experimental_local_results(finite)[0],
                lambda: strategy.extended.call_for_each_replica(update, args=(gradients,)),
                lambda: None,
            )

        context.merge_call(merge, args=(finite, gradients))


def _clips(optimizer: keras.Optimizer) -> bool:
    clipping = inner(optimizer)
    return any(
        getattr(clipping, name) is not None for name in ("clipnorm", "global_clipnorm", "clipvalue")
    )


def _clip_globally(optimizer: keras.Optimizer, gradients: Gradients) -> Gradients:
    """Clips the sum over all replicas; Keras would clip each replica's share.

    Returns each replica's share of the clipped sum. The optimizer adds them up
    again, and its own clipping then has no effect.
    """
    clipping = inner(optimizer)
    scale = optimizer.scale_loss(1.0)
    present = [tf.convert_to_tensor(g) for g in gradients if g is not None]
    summed = tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.SUM, present)
    if clipping.clipnorm is not None:
        summed = [tf.clip_by_norm(g, clipping.clipnorm * scale) for g in summed]
    elif clipping.global_clipnorm is not None:
        summed, _ = tf.clip_by_global_norm(summed, clipping.global_clipnorm * scale)
    else:
        limit = clipping.clipvalue * scale
        summed = [tf.clip_by_value(g, -limit, limit) for g in summed]
    shares = iter([g / replicas.num_replicas() for g in summed])
    return [None if g is None else next(shares) for g in gradients]


def refuse_unfit_strategy(student: keras.Model) -> None:
    """Raises for kinds of distribution that Keras ignores or does not support.

    Raises:
        InputError: For `keras.distribution`, a parameter server, or a student
            created outside the strategy's scope.
    """
    if keras.distribution.distribution() is not None:
        raise InputError(
            "TensorFlow ignores `keras.distribution`. Received: "
            f"{type(keras.distribution.distribution()).__name__}. Use "
            "kdkeras.distribution.choose_strategy() and `with strategy.scope():`."
        )
    strategy = tf.distribute.get_strategy() if tf.distribute.has_strategy() else None
    if isinstance(strategy, tf.distribute.ParameterServerStrategy):
        raise InputError(
            "Keras 3 cannot train with parameter servers. Received: ParameterServerStrategy. "
            "Use kdkeras.distribution.choose_strategy('multi_worker')."
        )
    created_in = student._distribute_strategy
    if created_in is not strategy:
        raise InputError(
            "The student must be created in the strategy's scope. Received: a student created "
            f"under {_strategy_name(created_in)}, a Distiller under {_strategy_name(strategy)}. "
            "Create both inside `with strategy.scope():`."
        )


def _strategy_name(strategy: tf.distribute.Strategy | None) -> str:
    return "no strategy" if strategy is None else type(strategy).__name__


def refuse_unfit_precision(optimizer: keras.Optimizer) -> None:
    """Raises for float16 with an optimizer that updates single rows of a table.

    Raises:
        InputError: Because loss scaling needs gradients of all rows.
    """
    if inner(optimizer) is not optimizer and hasattr(inner(optimizer), "accepts_sparse_gradients"):
        raise InputError(
            "Loss scaling needs the gradients of all rows. Received: "
            f"{type(inner(optimizer)).__name__} in float16. Use bfloat16, or FusedAdam."
        )


def refuse_unfit_optimizer(optimizer: keras.Optimizer, strategy: tf.distribute.Strategy) -> None:
    """Raises for optimizers that Keras does not support with several replicas.

    Raises:
        InputError: For an optimizer of another strategy, or one that
            accumulates gradients.
    """
    own = getattr(inner(optimizer), "_distribution_strategy", strategy)
    if own is not strategy:
        raise InputError(
            "The optimizer must belong to the model's strategy. Received: an optimizer created "
            f"under {type(own).__name__}, a Distiller under {type(strategy).__name__}. Create "
            "student, Distiller and optimizer inside `with strategy.scope():`."
        )
    steps = inner(optimizer).gradient_accumulation_steps
    if isinstance(strategy, tf.distribute.TPUStrategy) and hasattr(
        inner(optimizer), "accepts_sparse_gradients"
    ):
        raise InputError(
            "A TPU needs dense gradients, because tensors have static shapes. Received: "
            f"{type(optimizer).__name__}. Use FusedAdam."
        )
    if steps and strategy.num_replicas_in_sync > 1:
        raise InputError(
            "Keras cannot accumulate gradients over steps with several replicas. Received: "
            f"gradient_accumulation_steps={steps}. Use batches that are {steps} times as large and "
            f"Distiller(micro_batches={steps})."
        )
