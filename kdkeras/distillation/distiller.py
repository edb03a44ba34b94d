"""The Keras model that trains a student from a teacher."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kdkeras import replicas
from kdkeras.distillation.backup import Backup, endless_batches
from kdkeras.distillation.balancing import Balancing, Weighed, weigh
from kdkeras.distillation.batches import (
    Rows,
    StudentOutputs,
    forward,
    named_output,
    unpack,
    unpack_data,
)
from kdkeras.distillation.keras_hooks import (
    StrategyHooks,
    compiled_forward,
    differ_by_replica,
    require_tested_keras,
)
from kdkeras.distillation.monitor import StopOnNonFinite
from kdkeras.distillation.random_states import load_random_states, save_random_states
from kdkeras.distillation.stages import Stage, StagedTraining
from kdkeras.distillation.terms import (
    Terms,
    add_terms,
    loss_terms,
    regularization_term,
    task_term,
    teacher_targets,
)
from kdkeras.distillation.update import (
    add_gradients,
    apply_gradients,
    refuse_unfit_optimizer,
    refuse_unfit_precision,
    refuse_unfit_strategy,
)
from kdkeras.distillation.weights import (
    REGULARIZATION,
    TASK,
    WEIGHT_LOG,
    all_weights,
    weights_at,
)
from kdkeras.errors import InputError
from kdkeras.losses import AlignmentLoss, DistillationLoss
from kdkeras.schedules import serialized

__all__ = ["Distiller"]


@keras.saving.register_keras_serializable(package="kdkeras")
class Distiller(StrategyHooks):
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
        alignment_losses: Losses by name, each an `AlignmentLoss`.
        loss_weights: Weight of each loss by its name, at least 0; 1.0 where
            left out. The task loss is called `"task"`. A float, or a schedule
            of the step (see `kdkeras.schedules`); one update is one step.
        balancing: What brings terms of different size to one size:
            `RunningMagnitude()` or `UncertaintyWeighting()`; None (the
            default) multiplies them by their weights alone.
        micro_batches: Parts in which a step runs its batch, to save memory;
            the gradients are added up before the one update. Part `i` holds
            the rows `i`, `i + micro_batches`, …; a loss over the batch sees
            the rows of one part. Default 1.

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

    Every term is logged as a running mean beside `loss`, before its weight;
    while training also `weight_<name>`, where a schedule or `balancing`
    changes what a term is multiplied by. `evaluate` weighs as the next step
    would.

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
        alignment_losses: Mapping[str, AlignmentLoss] | None = None,
        loss_weights: Mapping[str, Any] | None = None,
        balancing: Balancing | None = None,
        micro_batches: int = 1,
        **kwargs: Any,
    ) -> None:
        refuse_unfit_strategy(student)
        # Keras scales the loss of a model whose own policy is float16.
        kwargs.setdefault("dtype", student.dtype_policy)
        super().__init__(**kwargs)
        self.student = student
        self.distillation_losses = dict(distillation_losses or {})
        self.alignment_losses = dict(alignment_losses or {})
        losses = [*self.distillation_losses, *self.alignment_losses]
        self.term_weights = self.active_weights = all_weights(losses, loss_weights or {})
        self.balancing = balancing
        if balancing is not None:
            balancing.add_names(list(self.term_weights))
        if micro_batches < 1:
            raise InputError(
                f"`micro_batches` must be 1 or more. Received: micro_batches={micro_batches}. "
                "Use 1 to run the batch as a whole."
            )
        self.micro_batches = int(micro_batches)
        self._loss_layers = [*self.distillation_losses.values(), *self.alignment_losses.values()]
        names = [*self.term_weights, REGULARIZATION]
        names += [f"{WEIGHT_LOG}{name}" for name in self.term_weights]
        self._logged: tuple[str, ...] = ("loss",)
        self.term_trackers = {name: keras.metrics.Mean(name=name) for name in names}
        if teacher is not None:
            teacher.trainable = False
        # Hidden from Keras: neither tracked nor trained (nor saved, see __dir__).
        object.__setattr__(self, "_teacher_holder", (teacher,))
        object.__setattr__(self, "_forward", student)
        object.__setattr__(self, "_stages", None)
        self.built = True

    @property
    def step(self) -> Any:
        """Number of updates that are done, an int32 scalar."""
        return ops.cast(self.optimizer.iterations, "int32")

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
        for variable in self.balancing.trained(TASK) if self.balancing is not None else ():
            variable.trainable = loss is not None  # Else it has no gradient.
        refuse_unfit_precision(self.optimizer)
        if self._distribute_strategy is not None:
            self._prepare_for_strategy()

    def _prepare_for_strategy(self) -> None:
        """Refuses what would be silently wrong, and does the rest another way."""
        require_tested_keras()
        refuse_unfit_optimizer(self.optimizer, self._distribute_strategy)
        if self._distribute_strategy.num_replicas_in_sync > 1:
            differ_by_replica(self.student)
        if self.jit_compile:  # type: ignore[has-type]
            object.__setattr__(self, "_forward", compiled_forward(self.student))
            self.jit_compile = False

    def fit(
        self,
        x: Any = None,
        y: Any = None,
        *,
        callbacks: Any = None,
        backup: Backup | str | os.PathLike[str] | None = None,
        **named: Any,
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, and stops at a non-finite loss.

        Args:
            x: As for Keras; usually a `tf.data.Dataset` of batches.
            y: As for Keras.
            callbacks: As for Keras.
            backup: A folder, or a `Backup`: the training is kept there, and
                goes on from what is there, at the batch it was stopped at. `x`
                must be a dataset that gives the same batches again, and its
                passes are read one after the other without end.
            **named: As for Keras.

        Raises:
            NonFiniteLossError: At the step at which a term became NaN or
                infinite, naming it.
            InputError: If a backup is wanted and `x` is no dataset, or of
                unknown length without `steps_per_epoch`.
        """
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            callbacks = [StopOnNonFinite(), *keras.tree.flatten(callbacks or [])]
        # Keras warns that it cannot shuffle a dataset; nobody asked it to.
        named.setdefault("shuffle", not isinstance(x, tf.data.Dataset))
        if backup is None:
            return super().fit(x, y, callbacks=callbacks, **named)
        if not isinstance(backup, Backup):
            backup = Backup(backup)
        with self.distribute_strategy.scope():
            backup.restore(self)
        batches, steps = endless_batches(x, named.pop("steps_per_epoch", None))
        named.update(backup.first_epoch())
        callbacks.append(backup)
        with backup.passing_over(self, steps):
            return super().fit(batches, y, callbacks=callbacks, steps_per_epoch=steps, **named)

    def fit_stages(
        self,
        x: Any,
        stages: Sequence[Stage],
        *,
        callbacks: Any = None,
        backup: Backup | str | os.PathLike[str] | None = None,
        steps_per_epoch: int | None = None,
        **named: Any,
    ) -> keras.callbacks.History:
        """Trains through stages that differ in losses, frozen layers and learning rate.

        The stage is that of the optimizer's step: a run that is resumed, from
        a backup or as a loaded Distiller, goes on in the right one, and one
        that is through is not trained again. See `StagedTraining`.

        Args:
            x: As for `fit` with a backup, one stream of batches through all stages.
            stages: The stages, in their order.
            callbacks: As for Keras.
            backup: As for `fit`; resumed, it must have the same stages.
            steps_per_epoch: Steps between two lines of the history; the
                dataset's length if None.
            **named: As for Keras, but `epochs`: the stages say how long.

        Raises:
            InputError: As `StagedTraining` and `fit`.
        """
        backup = Backup(backup) if isinstance(backup, (str, os.PathLike)) else backup
        training = StagedTraining(self, stages)
        batches, steps_per_epoch = endless_batches(x, steps_per_epoch)
        epochs = training.open(backup, steps_per_epoch, named)
        callbacks = [*keras.tree.flatten(callbacks or []), training]
        with training:
            return self.fit(
                batches,
                callbacks=callbacks,
                backup=backup,
                epochs=epochs,
                steps_per_epoch=steps_per_epoch,
                **named,
            )

    def running_means(self) -> dict[str, keras.metrics.Mean]:
        """Returns the trackers of the loss and of every term, by name."""
        return {"loss": self._loss_tracker, **self.term_trackers}

    def make_train_function(self, force: bool = False) -> Any:
        """Creates the optimizer's variables first: a step cannot."""
        if not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_weights)
        if self._stages is not None:
            self._stages.enter()
        return super().make_train_function(force)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Unpack, forward, loss terms, gradients, track."""
        gradients: list[Any] | None = None
        finite: Any = True
        sums: Terms = {}
        variables = [v.value for v in self.trainable_weights]
        data = unpack_data(data)
        count = replicas.total(data.count)
        for i in range(self.micro_batches):
            part = data.part(i, self.micro_batches)
            targets = teacher_targets(part.batch, self.teacher, *self._given_losses())
            with tf.GradientTape() as tape:
                outputs = forward(self._forward, part.batch, training=True)
                terms = self._terms(part, targets, outputs)
                weighed = self._weigh(part, terms)
                loss = weighed.total / count
                scaled = self.optimizer.scale_loss(loss)
            gradients = add_gradients(gradients, tape.gradient(scaled, variables))
            finite = self._finite_so_far(loss) & finite
            sums = add_terms(sums, terms)
            logged = self._track(part, outputs, weighed.logged(terms, part.count))
        apply_gradients(self.optimizer, gradients or [], self.trainable_weights, finite)
        if self.balancing is not None:
            self.balancing.update({name: value / count for name, value in sums.items()}, finite)
        return self._logs(logged)

    def test_step(self, data: Any) -> dict[str, Any]:
        """The same terms without a gradient."""
        data = unpack_data(data)
        outputs = forward(self._forward, data.batch, training=False)
        targets = teacher_targets(data.batch, self.teacher, *self._given_losses())
        terms = self._terms(data, targets, outputs)
        total = self._weigh(data, terms).total
        return self._logs(self._track(data, outputs, {"loss": total, **terms}))

    def _given_losses(self) -> tuple[dict[str, DistillationLoss], dict[str, AlignmentLoss]]:
        """The losses that are computed; a stage may leave some out."""
        return (
            {n: loss for n, loss in self.distillation_losses.items() if n in self.active_weights},
            {n: loss for n, loss in self.alignment_losses.items() if n in self.active_weights},
        )

    def _terms(self, rows: Rows, targets: dict[str, Any], outputs: StudentOutputs) -> Terms:
        task = self._compile_loss if TASK in self.active_weights else None
        return {
            **loss_terms(rows, targets, outputs, *self._given_losses(), step=self.step),
            **task_term(rows, outputs, task),
            **regularization_term(rows, self.student.losses),
        }

    def _weigh(self, rows: Rows, terms: Terms) -> Weighed:
        weights = weights_at(self.active_weights, self.step)
        return weigh(terms, weights, rows.count, self.balancing)

    def _finite_so_far(self, loss: Any) -> Any:
        """Whether this loss and those before it are finite on all replicas.

        The running total keeps a NaN: with `steps_per_execution` the steps
        after a spoiled one leave the weights alone too.
        """
        return ops.isfinite(replicas.total(loss + self._loss_tracker.total.value))

    def _track(self, rows: Rows, outputs: StudentOutputs, logged: Terms) -> tuple[str, ...]:
        """Adds sums over rows to the running means; returns their names."""
        for name, value in logged.items():
            tracker = self._mean_of(name)
            # A mean, and how much it counts; a replica without a row counts nothing.
            tracker.update_state(ops.divide_no_nan(value, rows.count), sample_weight=rows.count)
        if self._compile_metrics is not None and rows.batch.labels is not None:
            prediction = named_output(outputs.source, "logits")
            self._compile_metrics.update_state(
                rows.batch.labels, prediction, sample_weight=rows.weight
            )
        return tuple(logged)

    def _logs(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Running means over all replicas, the same on each of them."""
        self._logged = names
        trackers = [self._mean_of(name) for name in names]
        own = tf.stack([v.value for t in trackers for v in (t.total, t.count)])
        sums = ops.reshape(replicas.total(own), (len(names), 2))
        means = ops.unstack(ops.divide_no_nan(sums[:, 0], sums[:, 1]))
        logs = dict(zip(names, means, strict=True))
        if self._compile_metrics is not None and self._compile_metrics.built:
            logs.update(self._compile_metrics.result())
        return logs

    def _mean_of(self, name: str) -> keras.metrics.Mean:
        return self._loss_tracker if name == "loss" else self.term_trackers[name]

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns what the steps log, from all replicas and workers together."""
        result = {name: self._mean_of(name).result() for name in self._logged}
        if self._compile_metrics is not None and self._compile_metrics.built:
            result.update(self._compile_metrics.result())
        return result

    # ---- saving -----------------------------------------------------------

    def save_own_variables(self, store: Any) -> None:
        """Saves the states of the student's dropout, too."""
        save_random_states(self.student, store)

    def load_own_variables(self, store: Any) -> None:
        """Reads the states of the student's dropout."""
        load_random_states(self.student, store)

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
            "loss_weights": {k: serialized(v) for k, v in self.term_weights.items()},
            "balancing": None if self.balancing is None else serialize(self.balancing),
            "micro_batches": self.micro_batches,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> Distiller:
        """Creates a Distiller from `get_config()`."""
        read = keras.saving.deserialize_keras_object
        config = dict(config)
        config["student"] = read(config["student"])
        config["balancing"] = read(config.get("balancing"))
        for key in ("distillation_losses", "alignment_losses"):
            config[key] = {name: read(value) for name, value in config[key].items()}
        return cls(**config)
