"""Variants of Adam for models with large embedding tables."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from kdkeras.errors import InputError

__all__ = ["FusedAdam", "LazyAdam"]


@keras.saving.register_keras_serializable(package="kdkeras")
class FusedAdam(keras.optimizers.Adam):
    """Adam with one TensorFlow operation per variable.

    The same update as `keras.optimizers.Adam` (without `amsgrad`), in a third
    of the time for tables of 100,000 rows: TensorFlow's fused kernel reads and
    writes every number once. Use it for most students. If a batch reads only a
    small part of a table, `LazyAdam` is faster.

    Args:
        learning_rate: A float or a `keras.optimizers.schedules.LearningRateSchedule`.
            Defaults to 0.001.
        **arguments: Other arguments of `keras.optimizers.Adam`, except
            `amsgrad`.

    Raises:
        InputError: If `amsgrad` is set.

    References:
        Kingma, Ba (2014), arXiv:1412.6980, algorithm 1 with the reordering of
        section 2.
    """

    def __init__(
        self, learning_rate: Any = 0.001, name: str = "fused_adam", **arguments: Any
    ) -> None:
        if arguments.pop("amsgrad", False):
            raise InputError(
                "`amsgrad` is not supported by the fused kernel. Received: amsgrad=True. "
                "Use keras.optimizers.Adam(amsgrad=True)."
            )
        super().__init__(learning_rate=learning_rate, name=name, **arguments)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable and its two moments."""
        variable = _tf_variable(variable)
        dtype = variable.dtype
        step = tf.cast(tf.convert_to_tensor(self.iterations) + 1, dtype)
        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=_tf_variable(self._momentums[index]).handle,
            v=_tf_variable(self._velocities[index]).handle,
            beta1_power=tf.pow(tf.cast(self.beta_1, dtype), step),
            beta2_power=tf.pow(tf.cast(self.beta_2, dtype), step),
            lr=tf.cast(learning_rate, dtype),
            beta1=tf.cast(self.beta_1, dtype),
            beta2=tf.cast(self.beta_2, dtype),
            epsilon=tf.cast(self.epsilon, dtype),
            grad=tf.convert_to_tensor(tf.cast(gradient, dtype)),
        )


def _tf_variable(variable: Any) -> tf.Variable:
    """The TensorFlow variable; Keras passes either its own or TensorFlow's."""
    return variable.value if isinstance(variable, keras.Variable) else variable


# Arguments that affect every row of a table.
_DENSE = (
    "amsgrad",
    "weight_decay",
    "clipnorm",
    "clipvalue",
    "global_clipnorm",
    "loss_scale_factor",
    "gradient_accumulation_steps",
)


@keras.saving.register_keras_serializable(package="kdkeras")
class LazyAdam(keras.optimizers.Adam):
    """Adam that updates only the rows of a table that occur in the batch.

    Use it for embedding tables so large that updating every row takes longer
    than the rest of the step: the time of a step depends on the tokens in the
    batch, not on the size of the table. **It is not equivalent to Adam**: the
    moments of a row that is not in the batch are unchanged instead of decaying,
    and the row itself does not move. Weights without sparse gradients are
    updated by Adam. The gradients of a token that occurs several times in the
    batch are summed first. It does not run on TPUs (`tf.unique` has no static
    shape).

    Formula, for the rows `r` in the batch, at step `t`:

    ```
    m[r] = beta_1 * m[r] + (1 - beta_1) * g[r]
    v[r] = beta_2 * v[r] + (1 - beta_2) * g[r]^2
    w[r] -= learning_rate * sqrt(1 - beta_2^t) / (1 - beta_1^t) * m[r] / (sqrt(v[r]) + epsilon)
    ```

    Args:
        learning_rate: A float or a `keras.optimizers.schedules.LearningRateSchedule`.
            Defaults to 0.001.
        **arguments: Other arguments of `keras.optimizers.Adam`, except those
            that affect every row: `amsgrad`, `weight_decay`, clipping, loss
            scaling and gradient accumulation (use
            `Distiller(micro_batches=...)`).

    Raises:
        InputError: If one of these is set.

    References:
        Kingma, Ba (2014), arXiv:1412.6980; sparse updates as in
        `tfa.optimizers.LazyAdam`.
    """

    accepts_sparse_gradients = True
    """Whether the Distiller passes `tf.IndexedSlices` to the optimizer."""

    def __init__(
        self, learning_rate: Any = 0.001, name: str = "lazy_adam", **arguments: Any
    ) -> None:
        for unsupported in _DENSE:
            if arguments.get(unsupported):
                raise InputError(
                    f"LazyAdam updates only the rows of a batch, but `{unsupported}` affects every "
                    f"row. Received: {unsupported}={arguments[unsupported]}. Use FusedAdam or "
                    "keras.optimizers.Adam."
                )
        super().__init__(learning_rate=learning_rate, name=name, **arguments)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Updates one variable, or those of its rows that have a gradient."""
        if not isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable, learning_rate)
            return
        gradient = merge_rows(gradient)
        variable = _tf_variable(variable)
        index = self._get_variable_index(variable)
        momentum, velocity = (_tf_variable(s[index]) for s in (self._momentums, self._velocities))
        step = tf.cast(tf.convert_to_tensor(self.iterations) + 1, variable.dtype)
        rate = tf.cast(learning_rate, variable.dtype)
        rate *= tf.sqrt(1 - tf.pow(tf.cast(self.beta_2, rate.dtype), step))
        rate /= 1 - tf.pow(tf.cast(self.beta_1, rate.dtype), step)
        rows, g = gradient.indices, tf.cast(gradient.values, variable.dtype)
        m = self.beta_1 * tf.gather(momentum, rows) + (1 - self.beta_1) * g
        v = self.beta_2 * tf.gather(velocity, rows) + (1 - self.beta_2) * tf.square(g)
        momentum.scatter_update(tf.IndexedSlices(m, rows))
        velocity.scatter_update(tf.IndexedSlices(v, rows))
        variable.scatter_sub(tf.IndexedSlices(rate * m / (tf.sqrt(v) + self.epsilon), rows))


def merge_rows(gradient: tf.IndexedSlices) -> tf.IndexedSlices:
    """Sums the gradients of equal rows, so that every row occurs once."""
    rows, place = tf.unique(gradient.indices)
    values = tf.math.unsorted_segment_sum(gradient.values, place, tf.size(rows))
    return tf.IndexedSlices(values, rows, gradient.dense_shape)
