"""The Keras model that trains a student from a teacher."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kdkeras import replicas
from kdkeras.distillation.backup import Backup, endless_batches
from kdkeras.distillation.batches import (
    Batch,
    Rows,
    StudentOutputs,
    forward,
    named_output,
    unpack,
    unpack_data,
)
from kdkeras.distillation.chunks import fits, in_chunks
from kdkeras.distillation.forward_pass import (
    ChunkedPass,
    ForwardPass,
    read_outputs,
    refuse_unfit_chunks,
)
from kdkeras.distillation.keras_hooks import (
    StrategyHooks,
    compiled_forward,
    differ_by_replica,
    require_tested_keras,
)
from kdkeras.distillation.keras_losses import our_losses
from kdkeras.distillation.monitor import StopOnNonFinite
from kdkeras.distillation.random_states import load_random_states, save_random_states
from kdkeras.distillation.terms import (
    Terms,
    loss_terms,
    regularization_term,
    task_term,
    teacher_targets,
    weighted_total,
)
from kdkeras.distillation.update import (
    accepts_sparse,
    add_gradients,
    apply_gradients,
    refuse_unfit_optimizer,
    refuse_unfit_precision,
    refuse_unfit_strategy,
)
from kdkeras.distillation.weights import REGULARIZATION, TASK, checked_weights
from kdkeras.errors import InputError
from kdkeras.losses import AlignmentLoss, DistillationLoss

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
        distillation_losses: Losses by name, each a `DistillationLoss`; Keras'
            own LogitsDistillation and FeatureDistillation are taken as such.
        alignment_losses: Losses by name, each an `AlignmentLoss`.
        loss_weights: Weight of each loss by its name, at least 0; 1.0 where
            left out. The task loss is called `"task"`.
        micro_batches: Parts in which a step runs its batch, to save memory;
            the gradients are added up before the one update. Part `i` holds
            the rows `i`, `i + micro_batches`, …; a loss over the batch sees
            the rows of one part. Default 1.
        chunk_size: The most rows (pairs) of a forward pass, for large batches
            in the memory of small ones: unlike with `micro_batches`, losses
            see the whole batch, and gradients are its own. Every chunk is read
            twice, a third more to compute. What the losses read of the
            student's outputs is kept for the whole batch. Not for students
            with BatchNormalization. None (the default) runs the batch at once.

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
            name used twice, an unknown loss, no loss at all, or a `chunk_size`
            that cannot be.

    References:
        Hinton et al. (2015), arXiv:1503.02531; Reimers, Gurevych (2020),
        arXiv:2004.09813; Gao et al. (2021), arXiv:2101.06983, for `chunk_size`.
    """

    def __init__(
        self,
        student: keras.Model,
        *,
        teacher: keras.Model | None = None,
        distillation_losses: Mapping[str, keras.distillation.DistillationLoss] | None = None,
        alignment_losses: Mapping[str, AlignmentLoss] | None = None,
        loss_weights: Mapping[str, float] | None = None,
        micro_batches: int = 1,
        chunk_size: int | None = None,
        **kwargs: Any,
    ) -> None:
        refuse_unfit_strategy(student)
        # Keras scales the loss of a model whose own policy is float16.
        kwargs.setdefault("dtype", student.dtype_policy)
        super().__init__(**kwargs)
        self.student = student
        self.distillation_losses = our_losses(distillation_losses or {})
        self.alignment_losses = dict(alignment_losses or {})
        self.term_weights = checked_weights(
            [*self.distillation_losses, *self.alignment_losses], loss_weights or {}
        )
        if micro_batches < 1:
            raise InputError(
                f"`micro_batches` must be 1 or more. Received: micro_batches={micro_batches}. "
                "Use 1 to run the batch as a whole."
            )
        if chunk_size is not None:
            refuse_unfit_chunks(chunk_size, micro_batches, student)
        self.micro_batches = int(micro_batches)
        self.chunk_size = None if chunk_size is None else int(chunk_size)
        self._loss_layers = [*self.distillation_losses.values(), *self.alignment_losses.values()]
        names = [*self.distillation_losses, *self.alignment_losses, TASK, REGULARIZATION]
        self._logged: tuple[str, ...] = ("loss",)
        self.term_trackers = {name: keras.metrics.Mean(name=name) for name in names}
        if teacher is not None:
            teacher.trainable = False
        # Hidden from Keras: neither tracked nor trained (nor saved, see __dir__).
        object.__setattr__(self, "_teacher_holder", (teacher,))
        object.__setattr__(self, "_forward", student)
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

    def running_means(self) -> dict[str, keras.metrics.Mean]:
        """Returns the trackers of the loss and of every term, by name."""
        return {"loss": self._loss_tracker, **self.term_trackers}

    def make_train_function(self, force: bool = False) -> Any:
        """Creates the optimizer's variables first: a step cannot."""
        with self.distribute_strategy.scope():
            self.optimizer.build(self.trainable_weights)
        return super().make_train_function(force)

    def train_step(self, data: Any) -> dict[str, Any]:
        """Unpack, forward, loss terms, gradients, track."""
        gradients: list[Any] | None = None
        finite: Any = True
        variables = [v.value for v in self.trainable_weights]
        data = unpack_data(data)
        count = replicas.total(data.count)
        for i in range(self.micro_batches):
            part = data.part(i, self.micro_batches)
            targets = self._targets(part.batch)
            student = self._student_pass(part.batch, training=True)
            with tf.GradientTape() as tape:
                outputs = student.outputs(tape)
                terms = self._terms(part, targets, outputs)
                loss = weighted_total(terms, self.term_weights) / count
                scaled = self.optimizer.scale_loss(loss)
            gradients = add_gradients(gradients, student.gradients(tape, scaled, variables))
            finite = self._finite_so_far(loss) & finite
            self._track(part, outputs, terms)
        apply_gradients(self.optimizer, gradients or [], self.trainable_weights, finite)
        return self._logs(terms)

    def test_step(self, data: Any) -> dict[str, Any]:
        """The same terms without a gradient."""
        data = unpack_data(data)
        outputs = self._student_pass(data.batch, training=False).outputs()
        targets = self._targets(data.batch)
        terms = self._terms(data, targets, outputs)
        self._track(data, outputs, terms)
        return self._logs(terms)

    def _student_pass(self, batch: Batch, training: bool) -> ForwardPass:
        """The student's pass over a batch: at once, or in chunks."""

        def whole(batch: Batch) -> StudentOutputs:
            return forward(self._forward, batch, training=training)

        if self.chunk_size is None or fits(batch.source, self.chunk_size):
            return ForwardPass(whole, batch)
        reading = (self._compile_loss, self._compile_metrics) != (None, None)
        task = reading and batch.labels is not None
        return ChunkedPass(
            lambda rows: read_outputs(whole(rows), *self._given_losses(), task),
            batch,
            self.chunk_size,
            self.student,
            keep_rows=accepts_sparse(self.optimizer),
        )

    def _targets(self, batch: Batch) -> dict[str, Any]:
        """The cached targets, and the live teacher's, in chunks as the student's."""
        if self.teacher is None:
            return teacher_targets(batch, self.teacher, *self._given_losses())

        def taught(rows: Batch) -> dict[str, Any]:
            targets = teacher_targets(rows, self.teacher, *self._given_losses())
            return {name: x for name, x in targets.items() if name not in rows.targets}

        return {**batch.targets, **in_chunks(taught, batch, self.chunk_size)}

    def _given_losses(self) -> tuple[dict[str, DistillationLoss], dict[str, AlignmentLoss]]:
        return self.distillation_losses, self.alignment_losses

    def _terms(self, rows: Rows, targets: dict[str, Any], outputs: StudentOutputs) -> Terms:
        return {
            **loss_terms(rows, targets, outputs, *self._given_losses()),
            **task_term(rows, outputs, self._compile_loss),
            **regularization_term(rows, self.student.losses),
        }

    def _finite_so_far(self, loss: Any) -> Any:
        """Whether this loss and those before it are finite on all replicas.

        The running total keeps a NaN: with `steps_per_execution` the steps
        after a spoiled one leave the weights alone too.
        """
        return ops.isfinite(replicas.total(loss + self._loss_tracker.total.value))

    def _track(self, rows: Rows, outputs: StudentOutputs, terms: dict[str, Any]) -> None:
        total = weighted_total(terms, self.term_weights)
        for name, value in {"loss": total, **terms}.items():
            tracker = self._mean_of(name)
            # A mean, and how much it counts; a replica without a row counts nothing.
            tracker.update_state(ops.divide_no_nan(value, rows.count), sample_weight=rows.count)
        if self._compile_metrics is not None and rows.batch.labels is not None:
            prediction = named_output(outputs.source, "logits")
            self._compile_metrics.update_state(
                rows.batch.labels, prediction, sample_weight=rows.weight
            )

    def _logs(self, terms: dict[str, Any]) -> dict[str, Any]:
        """Running means over all replicas, the same on each of them."""
        self._logged = names = ("loss", *terms)
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
            "loss_weights": dict(self.term_weights),
            "micro_batches": self.micro_batches,
            "chunk_size": self.chunk_size,
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
