"""Training the factors of a model's growth: LiGO."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kdkeras.distillation import Distiller
from kdkeras.errors import InputError
from kdkeras.growth.axes import describe, variables
from kdkeras.growth.ligo_factors import LearnedOperators
from kdkeras.growth.plan import GrowthPlan
from kdkeras.students import Student

__all__ = ["learn_operators"]

Loss = Callable[[Any], Any]


def learn_operators(
    student: Student,
    plan: GrowthPlan,
    data: Iterable[Any],
    loss: Distiller | Callable[[Any, Any], Any],
    steps: int = 100,
    learning_rate: float = 1e-3,
) -> LearnedOperators:
    """Trains the factors of a plan's growth on a loss of the larger student (LiGO).

    Only the factors are trained, with Adam and without dropout; the old weights are
    constants. After a few hundred steps, `operators.grow()` returns the larger student
    with plain weights, and training continues with a new optimizer or with
    `grow_optimizer(..., plan=operators)`.

    Args:
        student: A `StaticStudent` or a `TransformerStudent`. It is not modified.
        plan: The new sizes and the initial operators, with `keeps_function=False`.
        data: Batches as for `fit`, `(x, y)` or `(x, y, sample_weight)`. Read repeatedly
            if there are fewer batches than steps.
        loss: A `Distiller` of the small student, whose losses, loss weights and teacher
            are used (loss weights at their value of step 0, without `balancing`), or a
            Keras loss `loss(y, embeddings)`.
        steps: Number of training steps, at least 1. Default 100.
        learning_rate: Learning rate of Adam, above 0. Default 1e-3.

    Returns:
        The trained operators. Their attribute `losses` has the loss of each step.

    Raises:
        InputError: If the plan does not fit (see `LearnedOperators`), an argument is out
            of range, or `data` contains no batch.

    References:
        Wang et al. (2023), LiGO, arXiv:2303.00980.
    """
    if steps < 1 or not learning_rate > 0:
        raise InputError(
            "`steps` must be at least 1 and `learning_rate` positive. Received: "
            f"steps={steps}, learning_rate={learning_rate}. Use 100 and 1e-3 if in doubt."
        )
    operators = LearnedOperators(student, plan)
    loss_of = _loss_of(operators.target, loss)
    optimizer = keras.optimizers.Adam(learning_rate)
    optimizer.build(operators.trainable_variables)
    targets = variables(operators.target, describe(student))

    @tf.function(reduce_retracing=True)
    def step(batch: Any) -> Any:
        trained = operators.trainable_variables
        with tf.GradientTape() as tape:
            values = operators.values()
            pairs = [(targets[path], value) for path, value in values.items()]
            with keras.StatelessScope(state_mapping=pairs):
                value = loss_of(batch)
        gradients = tape.gradient(value, [v.value for v in trained], unconnected_gradients="zero")
        optimizer.apply(gradients, trained)
        return value

    batches = _repeated(data)
    found = [step(_tensors(next(batches))) for _ in range(steps)]
    operators.losses = tuple(float(value) for value in found)
    return operators


def _loss_of(target: Student, loss: Any) -> Loss:
    """Returns the mean loss of a batch as a function, for the larger student."""
    if isinstance(loss, Distiller):
        larger = Distiller(
            target,
            teacher=loss.teacher,
            distillation_losses=loss.distillation_losses,
            alignment_losses=loss.alignment_losses,
            loss_weights=loss.term_weights,
        )
        larger.compile("adam", loss=getattr(loss, "loss", None))
        return larger.loss_of
    if not callable(loss):
        raise InputError(
            f"`loss` must be a Distiller or a Keras loss. Received: {loss!r}. "
            "Use e.g. keras.losses.CosineSimilarity()."
        )

    def mean(batch: Any) -> Any:
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batch)
        values = loss(y, target(x, training=False))
        return ops.mean(values if weights is None else values * weights)

    return mean


def _tensors(batch: Any) -> Any:
    return keras.tree.map_structure(
        lambda x: None if x is None else tf.convert_to_tensor(x), batch, none_is_leaf=True
    )


def _repeated(data: Iterable[Any]) -> Iterator[Any]:
    """Yields the batches, repeated without end."""
    read = 0
    while True:
        before = read
        for batch in data:
            read += 1
            yield batch
        if read == before:
            raise InputError(
                f"`data` must be repeatable. Received: data that ended after {read} batches. "
                "Use a list or a tf.data.Dataset."
            )
