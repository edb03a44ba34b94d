"""The Keras model that trains a student from a teacher."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from kdkeras import replicas
from kdkeras.distillation.balancing import LossBalancing, Weighed, weigh
from kdkeras.distillation.batches import (
    Batch,
    Rows,
    StudentOutputs,
    forward,
    named_output,
    only,
    refuse_lost_weights,
    refuse_single_rows,
    refuse_strings,
    single_rows_refused,
    unpack,
    unpack_data,
)
from kdkeras.distillation.chunks import fits
from kdkeras.distillation.features import asked_outputs, check_student, check_teacher
from kdkeras.distillation.forward_pass import (
    ChunkedPass,
    ForwardPass,
    load_random_states,
    refuse_unfit_parts,
    save_random_states,
)
from kdkeras.distillation.keras_hooks import (
    StopOnNonFinite,
    StrategyModel,
    compiled_forward,
    differ_by_replica,
    require_tested_keras,
    run_callbacks,
)
from kdkeras.distillation.keras_losses import alignment_only, our_losses
from kdkeras.distillation.terms import (
    TASK,
    Terms,
    all_weights,
    logs_of,
    loss_terms,
    regularization_term,
    task_term,
    teacher_targets,
    tell_losses,
    term_trackers,
    track,
    weights_at,
)
from kdkeras.distillation.update import (
    StepSum,
    accepts_sparse,
    apply_gradients,
    refuse_unfit_optimizer,
    refuse_unfit_precision,
    refuse_unfit_strategy,
)
from kdkeras.errors import InputError
from kdkeras.losses import AlignmentLoss, DistillationLoss
from kdkeras.schedules import serialized

__all__ = ["Distiller"]

_FIT_ARGUMENTS = frozenset(inspect.signature(keras.Model.fit).parameters) - {"self"}


@keras.saving.register_keras_serializable(package="kdkeras")
class Distiller(StrategyModel):
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
            outputs by name (`embedding`, `logits`). A `FeatureModel`, as
            kdkeras' students are, is asked for what the losses read.
        teacher: Optional Keras model whose output is the target of losses
            that the batch has no cached target for; a tensor (read by every
            loss) or a dict of outputs by name. A `FeatureModel`, as the
            `model` of a kdkeras teacher is, is asked for what the losses read.
        distillation_losses: Losses by name, each a `DistillationLoss`; Keras'
            own LogitsDistillation and FeatureDistillation are taken as such.
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
    | y | `embedding`, `logits`, …: what the teacher said | `(B, d)` float |
    | y | `label`: ground truth for `compile(loss=...)`, and for losses that need it | optional |
    | | `sample_weight` multiplies every term of its row | `(B,)` float |

    Every term is logged as a running mean beside `loss`, before its weight;
    while training also `weight_<name>`, where a schedule or `balancing`
    changes what a term is multiplied by. `evaluate` weighs as the next step
    would.

    Raises:
        InputError: For an unknown name in `loss_weights`, a negative weight, a
            name used twice, an unknown loss, no loss at all, a feature that
            the student does not offer, a live teacher whose outputs cannot be
            compared, or a `chunk_size` that cannot be.

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
        loss_weights: Mapping[str, Any] | None = None,
        balancing: LossBalancing | None = None,
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
        self.alignment_losses = alignment_only(alignment_losses or {})
        losses = [*self.distillation_losses, *self.alignment_losses]
        self.term_weights = self.active_weights = all_weights(losses, loss_weights or {})
        self.balancing = balancing
        if balancing is not None:
            balancing.check_losses({**self.distillation_losses, **self.alignment_losses})
            balancing.add_names(list(self.term_weights))
        refuse_unfit_parts(micro_batches, chunk_size, student)
        self.micro_batches = int(micro_batches)
        self.chunk_size = None if chunk_size is None else int(chunk_size)
        self._loss_layers = [*self.distillation_losses.values(), *self.alignment_losses.values()]
        self.term_trackers = term_trackers(list(self.term_weights))
        self._logged: tuple[str, ...] = ("loss",)
        asked_outputs(student, self._names_read())
        if teacher is not None:
            check_teacher(student, teacher, self.distillation_losses)
            teacher.trainable = False
        check_student(student, {**self.distillation_losses, **self.alignment_losses})
        # Hidden from Keras: neither tracked nor trained (nor saved, see __dir__).
        object.__setattr__(self, "_teacher_holder", (teacher,))
        object.__setattr__(self, "_forward", student)
        # Set by a callback that reads past batches before training goes on.
        object.__setattr__(self, "_read_on", None)
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

    # ---- the run ----------------------------------------------------------

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
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: Any = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
    ) -> keras.callbacks.History:
        """Trains as `keras.Model.fit` does, and stops at a non-finite loss.

        The arguments are those of `keras.Model.fit`. `x` is usually a
        `tf.data.Dataset` of batches. Callbacks of `kdkeras.training` that
        shape the whole run (`Backup`, `Stages`) are given in `callbacks` like
        any other.

        Returns:
            The history, with one value per epoch for the loss and every term.

        Raises:
            NonFiniteLossError: At the step at which a term became NaN or
                infinite, naming the term.
            InputError: If there is a `sample_weight` without anything in `y`, `y`
                contains text, or a loss compares rows and a batch has one row.
        """
        arguments = {name: value for name, value in locals().items() if name in _FIT_ARGUMENTS}
        refuse_lost_weights(y, sample_weight)
        refuse_strings(y)
        # Keras warns that it cannot shuffle a dataset.
        arguments["shuffle"] = shuffle and not isinstance(x, tf.data.Dataset)
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            arguments["callbacks"] = [StopOnNonFinite(), *keras.tree.flatten(callbacks or [])]
        with ExitStack() as stack:
            stack.enter_context(single_rows_refused())
            for callback in run_callbacks(arguments["callbacks"]):
                stack.enter_context(callback.run(self, arguments))
            return super().fit(**arguments)

    def evaluate(
        self,
        x: Any = None,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Evaluates as `keras.Model.evaluate` does.

        Raises:
            InputError: If there is a `sample_weight` without anything in `y`.
        """
        refuse_lost_weights(y, sample_weight)
        return super().evaluate(
            x, y, batch_size, verbose, sample_weight, steps, callbacks, return_dict, **kwargs
        )

    def make_train_function(self, force: bool = False) -> Any:
        """Creates the optimizer's variables first, because a traced step cannot."""
        if self.train_function is not None and not force:
            return self.train_function
        if not self.optimizer.built:
            with self.distribute_strategy.scope():
                self.optimizer.build(self.trainable_weights)
        super().make_train_function(force)
        if self._read_on is not None:
            self.train_function = self._read_on(self.train_function)
        return self.train_function

    # ---- the step ---------------------------------------------------------

    def train_step(self, data: Any) -> dict[str, Any]:
        """Unpack, forward, loss terms, gradients, track."""
        rows = unpack_data(data)
        count = replicas.total(rows.count)
        variables = [v.value for v in self.trainable_weights]
        step = StepSum()
        refuse_single_rows(rows, self.micro_batches, self._given_losses(), self.step)
        for part in rows.parts(self.micro_batches):
            targets = self._targets(part.batch)
            student = self._student_pass(part.batch, training=True)
            with tf.GradientTape() as tape:
                outputs = student.outputs(tape)
                terms = self._terms(part, targets, outputs)
                weighed = self._weigh(part, terms)
                loss = weighed.total / count
                scaled = self.optimizer.scale_loss(loss)
            gradients = student.gradients(tape, scaled, variables)
            step.add(gradients, terms, targets, self._finite_so_far(loss))
            logged = self._track(part, outputs, weighed.logged(terms, part.count))
        self._update(step, count)
        return self._logs(logged)

    def _update(self, step: StepSum, count: Any) -> None:
        """Takes the step, and then tells what remembers it."""
        apply_gradients(self.optimizer, step.gradients, self.trainable_weights, step.finite)
        if self.balancing is not None:
            means = {name: value / count for name, value in step.terms.items()}
            self.balancing.update(means, step.finite)
        # At the end: all parts have seen the same memory, and none its own rows in it.
        tell_losses(self._given_losses(), step.targets, step.finite)

    def test_step(self, data: Any) -> dict[str, Any]:
        """The same terms without a gradient."""
        data = unpack_data(data)
        outputs = self._student_pass(data.batch, training=False).outputs()
        targets = self._targets(data.batch)
        terms = self._terms(data, targets, outputs)
        total = self._weigh(data, terms).total
        return self._logs(self._track(data, outputs, {"loss": total, **terms}))

    def loss_of(self, data: Any) -> Any:
        """Returns the loss of a batch before any dropout, a scalar; nothing is tracked."""
        rows = unpack_data(data)
        outputs = self._student_pass(rows.batch, training=False).outputs()
        terms = self._terms(rows, self._targets(rows.batch), outputs)
        return self._weigh(rows, terms).total / rows.count

    def _targets(self, batch: Batch) -> dict[str, Any]:
        """The cached targets, and the live teacher's, in chunks as the student's."""
        return teacher_targets(batch, self.teacher, *self._given_losses(), self.chunk_size)

    def _student_pass(self, batch: Batch, training: bool) -> ForwardPass:
        """The student's pass over a batch: at once, or in chunks."""
        names = self._names_read(labelled=batch.labels is not None)
        asked = asked_outputs(self.student, names)

        def read(rows: Batch) -> StudentOutputs:
            return only(forward(self._forward, rows, training, asked), names)

        if self.chunk_size is None or fits(batch.source, self.chunk_size):
            return ForwardPass(read, batch)
        keep_rows = accepts_sparse(self.optimizer)
        return ChunkedPass(read, batch, self.chunk_size, self.student, keep_rows)

    def _finite_so_far(self, loss: Any) -> Any:
        """Whether this loss and those before it are finite on all replicas.

        The running total keeps a NaN: with `steps_per_execution` the steps
        after a non-finite one leave the weights alone too.
        """
        return ops.isfinite(replicas.total(loss + self._loss_tracker.total.value))

    def _track(self, rows: Rows, outputs: StudentOutputs, sums: Terms) -> tuple[str, ...]:
        """Updates the running means and the compiled metrics; returns the terms' names."""
        track(self.running_means(), sums, rows.count)
        if self._compile_metrics is not None and rows.batch.labels is not None:
            prediction = named_output(outputs.source, "logits")
            self._compile_metrics.update_state(
                rows.batch.labels, prediction, sample_weight=rows.weight
            )
        return tuple(sums)

    def _logs(self, names: tuple[str, ...]) -> dict[str, Any]:
        """Running means over all replicas, the same on each replica."""
        self._logged = names
        return {**logs_of(self.running_means(), names), **self._compiled_results()}

    def _compiled_results(self) -> dict[str, Any]:
        metrics = self._compile_metrics
        return metrics.result() if metrics is not None and metrics.built else {}

    def running_means(self) -> dict[str, keras.metrics.Mean]:
        """Returns the trackers of the loss and of every term, by name."""
        return {"loss": self._loss_tracker, **self.term_trackers}

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns the logs of the steps so far, from all replicas and workers together."""
        means = self.running_means()
        return {name: means[name].result() for name in self._logged} | self._compiled_results()

    def _given_losses(self) -> tuple[dict[str, DistillationLoss], dict[str, AlignmentLoss]]:
        """The losses that are computed; a stage may leave some out."""
        return (
            {n: loss for n, loss in self.distillation_losses.items() if n in self.active_weights},
            {n: loss for n, loss in self.alignment_losses.items() if n in self.active_weights},
        )

    def _names_read(self, labelled: bool = False) -> set[str]:
        """The student's outputs that losses, and metrics of labels, read."""
        distillation, alignment = self._given_losses()
        names = {loss.student_output for loss in distillation.values()}
        names.update(["embedding"] if alignment else [])
        if labelled and (self._compile_loss, self._compile_metrics) != (None, None):
            names.add("logits")
        return names

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
            "chunk_size": self.chunk_size,
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
