"""The Keras model that trains a student from a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kdkeras.distillation.batches import Batch, StudentOutputs, forward, named_output, unpack
from kdkeras.distillation.monitor import StopOnNonFinite
from kdkeras.errors import InputError
from kdkeras.losses import DistillationLoss, TranslationRanking

__all__ = ["Distiller"]

TASK, REGULARIZATION = "task", "regularization"


@keras.saving.register_keras_serializable(package="kdkeras")
class Distiller(keras.Model):
    """Trains a student from a teacher's soft targets and across languages.

    Formula:

    ```
    loss = sum_k(weight_k * mean(distillation_k(source) + distillation_k(translation)))
         + sum_j(weight_j * mean(alignment_j(source, translation)))
         + weight_task * task loss (where labels exist) + the student's regularisers
    ```

    Source and translation go through the student in one forward pass. With
    cached teacher targets no teacher is needed. A live `teacher` is frozen,
    runs with `training=False`, and is in no checkpoint.

    Args:
        student: The model to train; returns the embedding, or a dict of
            outputs by name (`embedding`, `logits`).
        teacher: Optional Keras model whose output is the target of losses
            that the batch has no cached target for; a tensor (read by every
            loss) or a dict of outputs by name.
        distillation_losses: Losses by name, each a `DistillationLoss`.
        alignment_losses: Losses by name, each a `TranslationRanking`.
        loss_weights: Weight of each loss by its name, at least 0; 1.0 where
            left out. The task loss is called `"task"`.

    Call arguments:
        x: What the student reads, or a batch as `fit` takes it.

    `fit`, `evaluate`: batches `(x, y)` or `(x, y, sample_weight)`:

    | part | name | shape, dtype |
    |---|---|---|
    | x | `source_token_ids`, `source_padding_mask` | `(B, L)` int32 |
    | x | `translation_token_ids`, `translation_padding_mask` | `(B, L)` int32 |
    | x | `source_id`, equal for equal sources | `(B,)` int64, optional |
    | x | `teacher_token_ids`, … for a live teacher's own tokenizer | optional |
    | y | `embedding`, `logits`: what the teacher said | `(B, d)` float |
    | y | `label`: ground truth for the loss given to `compile` | optional |
    | | `sample_weight` multiplies every term of its row | `(B,)` float |

    Every term is logged as a running mean beside `loss`, before its weight.

    Raises:
        InputError: For an unknown name in `loss_weights`, a negative weight, a
            name used twice, or no loss at all.

    References:
        Hinton et al. (2015), arXiv:1503.02531; Reimers, Gurevych (2020),
        arXiv:2004.09813.
    """

    def __init__(
        self,
        student: keras.Model,
        *,
        teacher: keras.Model | None = None,
        distillation_losses: Mapping[str, DistillationLoss] | None = None,
        alignment_losses: Mapping[str, TranslationRanking] | None = None,
        loss_weights: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        # Keras scales the loss of a model whose own policy is float16.
        kwargs.setdefault("dtype", student.dtype_policy)
        super().__init__(**kwargs)
        self.student = student
        self.distillation_losses = dict(distillation_losses or {})
        self.alignment_losses = dict(alignment_losses or {})
        self.term_weights = _checked_weights(
            [*self.distillation_losses, *self.alignment_losses], loss_weights or {}
        )
        self._loss_layers = [*self.distillation_losses.values(), *self.alignment_losses.values()]
        names = [*self.distillation_losses, *self.alignment_losses, TASK, REGULARIZATION]
        self.term_trackers = {name: keras.metrics.Mean(name=name) for name in names}
        if teacher is not None:
            teacher.trainable = False
        # Hidden from Keras: neither tracked nor trained (nor saved, see __dir__).
        object.__setattr__(self, "_teacher_holder", (teacher,))
        self._teacher_outputs: set[str] = set()
        self.built = True

    @property
    def teacher(self) -> keras.Model | None:
        """The live teacher, or None where targets are cached."""
        return self._teacher_holder[0]

    def __dir__(self) -> list[str]:
        # Keras saves every model that dir() leads it to.
        return [name for name in super().__dir__() if name not in ("teacher", "_teacher_holder")]

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Returns the student's output for `x` (its source side for a batch)."""
        return self.student(unpack(x, None).source, training=bool(training))

    # ---- training ---------------------------------------------------------

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **arguments: Any) -> None:
        """Configures training as `keras.Model.compile` does.

        `loss` is the task loss on the labels (`y["label"]`), on the student's
        `logits` output if it has several. Gradient accumulation, clipping and
        schedules are the optimizer's.

        Raises:
            InputError: If `loss_weights` is given: the weights belong to the
                Distiller.
        """
        if arguments.get("loss_weights") is not None:
            raise InputError(
                "Weights belong to the Distiller. Received: compile(loss_weights=...). "
                "Pass Distiller(loss_weights={...})."
            )
        if loss is None and not self._loss_layers:
            raise InputError(
                "A Distiller needs a loss. Received: no distillation loss, no alignment loss, "
                'and compile without a loss. Pass distillation_losses={"embedding": ...}.'
            )
        super().compile(optimizer=optimizer, loss=loss, **arguments)

    def fit(
        self, x: Any = None, y: Any = None, *, callbacks: Any = None, **named: Any
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, and stops at a non-finite loss.

        Raises:
            NonFiniteLossError: At the step at which a term became NaN or
                infinite, naming it.
        """
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [StopOnNonFinite(), *keras.tree.flatten(callbacks or [])]
        # Keras warns that it cannot shuffle a dataset; nobody asked it to.
        named.setdefault("shuffle", not isinstance(x, tf.data.Dataset))
        return super().fit(x, y, callbacks=callbacks, **named)

    def make_train_function(self, force: bool = False) -> Any:
        """Creates the optimizer's variables first: a step cannot."""
        self.optimizer.build(self.trainable_weights)
        return super().make_train_function(force)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Unpack, forward, loss terms, gradients, track."""
        batch, sample_weight = _unpack_data(data)
        targets = self._targets(batch)
        with tf.GradientTape() as tape:
            outputs = forward(self.student, batch, training=True)
            terms = self._loss_terms(batch, targets, outputs, sample_weight)
            loss = self._total(terms)
            scaled = self.optimizer.scale_loss(loss)
        # The running total keeps a NaN: with `steps_per_execution` the steps
        # after a spoiled one leave the weights alone too.
        finite = ops.isfinite(loss) & ops.isfinite(self._loss_tracker.total)
        self._apply(tape, scaled, finite)
        return self._track(batch, outputs, terms, loss, sample_weight)

    def test_step(self, data: Any) -> dict[str, Any]:
        """The same terms without a gradient."""
        batch, sample_weight = _unpack_data(data)
        outputs = forward(self.student, batch, training=False)
        terms = self._loss_terms(batch, self._targets(batch), outputs, sample_weight)
        return self._track(batch, outputs, terms, self._total(terms), sample_weight)

    def _targets(self, batch: Batch) -> dict[str, Any]:
        """Cached targets, and the live teacher's for what is not cached."""
        wanted = {loss.target for loss in self.distillation_losses.values()}
        if any(loss.guide_margin is not None for loss in self.alignment_losses.values()):
            wanted.add("embedding")
        missing = wanted - set(batch.targets)
        if not missing or self.teacher is None:
            _refuse_missing(missing, batch)
            return batch.targets
        inputs = batch.source if batch.teacher is None else batch.teacher
        outputs = keras.tree.map_structure(ops.stop_gradient, self.teacher(inputs, training=False))
        return {**batch.targets, **{name: named_output(outputs, name) for name in missing}}

    def _loss_terms(
        self,
        batch: Batch,
        targets: dict[str, Any],
        outputs: StudentOutputs,
        sample_weight: Any,
    ) -> dict[str, Any]:
        """Every term as a scalar: the one place that divides by the batch."""
        terms: dict[str, Any] = {}
        sides = [side for side in outputs if side is not None]
        for name, loss in self.distillation_losses.items():
            values = [loss(targets[loss.target], named_output(s, loss.target)) for s in sides]
            terms[name] = _mean(sum(values[1:], values[0]), sample_weight)
        for name, ranking in self.alignment_losses.items():
            if outputs.translation is None:
                raise InputError(
                    f"The alignment loss {name!r} needs translations. Received: a batch without "
                    "`translation_token_ids`. Give pairs, or leave the loss out."
                )
            source, translation = (named_output(side, "embedding") for side in outputs)
            guide = targets.get("embedding")
            values = ranking(source, translation, source_id=batch.source_id, teacher=guide)
            terms[name] = _mean(values, sample_weight)
        if self._compile_loss is not None and batch.labels is not None:
            prediction = named_output(outputs.source, "logits")
            terms[TASK] = self._compile_loss(batch.labels, prediction, sample_weight)
        if self.student.losses:
            terms[REGULARIZATION] = sum(ops.cast(v, "float32") for v in self.student.losses)
        return terms

    def _total(self, terms: dict[str, Any]) -> Any:
        weighted = [self.term_weights.get(name, 1.0) * value for name, value in terms.items()]
        return sum(weighted[1:], weighted[0])

    def _apply(self, tape: tf.GradientTape, loss: Any, finite: Any) -> None:
        variables = [v.value for v in self.trainable_weights]
        # Keras 3.15's optimizers square IndexedSlices without adding up equal
        # rows first, so a token that occurs twice gets a wrong second moment.
        gradients = [
            None if g is None else tf.convert_to_tensor(g) for g in tape.gradient(loss, variables)
        ]
        # A step whose loss is not finite leaves weights and moments as they
        # are: the callback stops training, and what was learnt is kept.
        ops.cond(
            finite,
            lambda: self.optimizer.apply(gradients, self.trainable_weights),
            lambda: None,
        )

    def _track(
        self,
        batch: Batch,
        outputs: StudentOutputs,
        terms: dict[str, Any],
        loss: Any,
        sample_weight: Any,
    ) -> dict[str, Any]:
        size = ops.shape(keras.tree.flatten(outputs.source)[0])[0]
        self._loss_tracker.update_state(loss, sample_weight=size)
        for name, value in terms.items():
            self.term_trackers[name].update_state(value, sample_weight=size)
        logs = {"loss": self._loss_tracker.result()}
        logs.update({name: self.term_trackers[name].result() for name in terms})
        if self._compile_metrics is not None and batch.labels is not None:
            prediction = named_output(outputs.source, "logits")
            self._compile_metrics.update_state(
                batch.labels, prediction, sample_weight=sample_weight
            )
            logs.update(self._compile_metrics.result())
        return logs

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns the running means, without metrics that never saw a label."""
        if self._compile_metrics is not None and not self._compile_metrics.built:
            return {"loss": self._loss_tracker.result()}
        return super().get_metrics_result()

    # ---- saving -----------------------------------------------------------

    def save_own_variables(self, store: Any) -> None:
        """Saves the states of the student's dropout, which Keras leaves out."""
        for i, state in enumerate(self._random_states()):
            store[f"random_state_{i}"] = state.numpy()

    def load_own_variables(self, store: Any) -> None:
        """Reads them, so that training goes on with the next dropout mask."""
        for i, state in enumerate(self._random_states()):
            state.assign(store[f"random_state_{i}"])

    def _random_states(self) -> list[Any]:
        weights = {id(weight) for weight in self.student.weights}
        return [
            variable
            for variable in self.student.variables
            if id(variable) not in weights and variable.name == "seed_generator_state"
        ]

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded Distiller as it was; its optimizer's state follows."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_weights)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments; a live teacher is left out."""
        serialize = keras.saving.serialize_keras_object
        return {
            "name": self.name,
            "trainable": self.trainable,
            "dtype": keras.dtype_policies.serialize(self.dtype_policy),
            "student": serialize(self.student),
            "distillation_losses": {k: serialize(v) for k, v in self.distillation_losses.items()},
            "alignment_losses": {k: serialize(v) for k, v in self.alignment_losses.items()},
            "loss_weights": dict(self.term_weights),
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Distiller:
        """Creates a Distiller from `get_config()`."""
        read = keras.saving.deserialize_keras_object
        config = dict(config)
        config["student"] = read(config["student"])
        for key in ("distillation_losses", "alignment_losses"):
            config[key] = {name: read(value) for name, value in config[key].items()}
        return cls(**config)


def _unpack_data(data: Any) -> tuple[Batch, Any]:
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    # Given with arrays, Keras repeats the rows' weights for every target.
    rows = keras.tree.flatten(sample_weight)
    return unpack(x, y), rows[0] if rows else None


def _mean(values: Any, sample_weight: Any) -> Any:
    """Sum of `weight * value` over the number of rows, as Keras' losses do."""
    if sample_weight is not None:
        values = values * ops.cast(sample_weight, "float32")
    return ops.mean(values)


def _checked_weights(names: list[str], weights: Mapping[str, float]) -> dict[str, float]:
    twice = sorted({name for name in names if names.count(name) > 1})
    taken = sorted({"loss", TASK, REGULARIZATION} & set(names))
    if twice or taken:
        raise InputError(
            f"Every loss needs a name of its own. Received: {(twice or taken)[0]!r} "
            f"{'twice' if twice else 'which is reserved'}. Choose another name."
        )
    for name, weight in weights.items():
        if name not in [*names, TASK]:
            raise InputError(
                f"`loss_weights` must name a loss. Received: {name!r}. "
                f"The losses are {[*names, TASK]}."
            )
        if not weight >= 0:
            raise InputError(
                f"A loss weight must be 0 or more. Received: {name}={weight}. "
                "Use 0 to only log a loss."
            )
    return {name: float(weights.get(name, 1.0)) for name in [*names, TASK]}


def _refuse_missing(missing: set[str], batch: Batch) -> None:
    if missing:
        raise InputError(
            f"A loss needs the teacher's target {sorted(missing)[0]!r}. Received: targets "
            f"{sorted(batch.targets)} and no live teacher. Cache the target in y, or pass teacher=."
        )
