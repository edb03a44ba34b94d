"""Training the factors of growth for a few steps."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kdkeras.distillation import Distiller
from kdkeras.errors import InputError
from kdkeras.growth.described import describe, variables
from kdkeras.growth.ligo import LearnedOperators
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
    """Trains the factors of a plan's growth on a loss of the larger student.

    The old weights stay; only the factors move, by Adam, without dropout. That is LiGO:
    some hundred steps, then `operators.grow()` multiplies out, and training goes on
    with plain weights, and a new optimizer or `grow_optimizer(..., plan=operators)`.

    Args:
        student: A `StaticStudent` or a `TransformerStudent`; it stays as it is.
        plan: What it grows to, and the operators that learning starts at; with
            `keeps_function=False`.
        data: Batches as `fit` takes them, `(x, y)` or `(x, y, sample_weight)`; read
            again from the start where there are fewer than steps.
        loss: A `Distiller` (of the small student: its losses, their weights, its
            teacher; the weights are those of step 0, and `balancing` is left out),
            or a Keras loss `loss(y, embeddings)`.
        steps: Steps of training, 1 or more.
        learning_rate: Adam's, above 0.

    Returns:
        The operators, with the `losses` of all steps.

    Raises:
        InputError: If the plan does not fit (see `LearnedOperators`), a number is out
            of its range, or there is no batch.

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
    """The mean loss of a batch, with the larger student in the place of the small one."""
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
    """The batches, again and again."""
    read = 0
    while True:
        before = read
        for batch in data:
            read += 1
            yield batch
        if read == before:
            raise InputError(
                f"Factors are trained on batches. Received: data that ended after {read}. "
                "Give a list or a tf.data.Dataset, which can be read again."
            )
