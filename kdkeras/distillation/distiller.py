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
from kdkeras.distillation.balancing import LossBalancing, WeightedTerms, weight_terms
from kdkeras.distillation.batches import (
    Batch,
    StudentOutputs,
    convert_single_row_error,
    forward,
    refuse_dropped_sample_weight,
    refuse_single_rows,
    refuse_text_targets,
    select_output,
    select_outputs,
    unpack,
    unpack_data,
)
from kdkeras.distillation.chunks import fits_in_one_chunk
from kdkeras.distillation.features import check_student, check_teacher, requested_outputs
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
from kdkeras.distillation.keras_losses import check_alignment_losses, to_kdkeras_losses
from kdkeras.distillation.terms import (
    TASK,
    Terms,
    all_weights,
    logs_of,
    loss_terms,
    regularization_term,
    task_term,
    teacher_targets,
    term_trackers,
    track,
    update_memories,
    weights_at,
)
from kdkeras.distillation.update import (
    AccumulatedStep,
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
    """Trains a student on a teacher's targets, and aligns its embeddings across languages.

    Formula:

    ```
    loss = sum_k(weight_k * mean(distillation_k(source) + distillation_k(translation)))
         + sum_j(weight_j * mean(alignment_j(source, translation)))
         + weight_task * task loss (where labels exist) + the student's regularization
    ```

    Source and translation go through the student in one forward pass. With
    cached teacher targets no teacher is needed. A live `teacher` is frozen,
    runs with `training=False`, and is not saved.

    Args:
        student: The model to train. It returns the embedding, or a dict of
            outputs by name (`embedding`, `logits`). From a `FeatureModel`,
            such as kdkeras' students, the outputs that the losses read are
            requested.
        teacher: Optional Keras model that computes the targets that are not
            cached in the batch. It returns a tensor (read by every loss) or a
            dict of outputs by name. From a `FeatureModel`, such as the `model`
            of a kdkeras teacher, the outputs that the losses read are
            requested.
        distillation_losses: Losses by name, each a `DistillationLoss`, or
            Keras' LogitsDistillation or FeatureDistillation.
        alignment_losses: Losses by name, each an `AlignmentLoss`.
        loss_weights: Weight of each loss by name, at least 0; 1.0 by default.
            The name of the task loss is `"task"`. A float, or a schedule of
            the step (see `kdkeras.schedules`); one update is one step.
        balancing: Brings terms of different magnitude to the same scale:
            `RunningMagnitude()` or `UncertaintyWeighting()`. None (the
            default) uses the weights alone.
        micro_batches: Number of parts in which a step processes its batch, to
            save memory; their gradients are added up before the one update.
            Part `i` holds the rows `i`, `i + micro_batches`, …; a loss that
            compares rows sees only those of one part. Defaults to 1.
        chunk_size: Maximum number of rows (pairs) per forward pass, for large
            batches in little memory. Unlike with `micro_batches`, losses see
            the whole batch, and the gradients are those of the whole batch.
            Every chunk is run twice, which costs about a third more compute.
            The student's outputs that the losses read are stored for the whole
            batch. Not for students with BatchNormalization. None (the default)
            runs the whole batch at once.

    Call arguments:
        x: Inputs of the student, or the `x` of a batch for `fit`.

    `fit` and `evaluate` take batches `(x, y)` or `(x, y, sample_weight)`:

    | part | name | shape, dtype |
    |---|---|---|
    | x | `source_token_ids`, `source_padding_mask` | `(B, L)` int32 |
    | x | `translation_token_ids`, `translation_padding_mask` | `(B, L)` int32 |
    | x | `source_id`, equal for equal sources | `(B,)` int64, optional |
    | x | `teacher_token_ids`, … if a live teacher has its own tokenizer | optional |
    | y | `embedding`, `logits`, …: teacher targets | `(B, d)` float |
    | y | `label`: ground truth for `compile(loss=...)`, and for losses that need it | optional |
    | | `sample_weight` multiplies every term of its row | `(B,)` float |

    The logs contain `loss` and the running mean of every term without its
    weight; in training also `weight_<name>`, if a schedule or `balancing`
    changes the weight. `evaluate` uses the weights of the next step.

    Raises:
        InputError: For an unknown name in `loss_weights`, a negative weight, a
            name used twice, an unknown loss, no loss at all, a feature that
            the student does not offer, a live teacher whose outputs cannot be
            compared, or an unusable `chunk_size`.

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
        self.distillation_losses = to_kdkeras_losses(distillation_losses or {})
        self.alignment_losses = check_alignment_losses(alignment_losses or {})
        losses = [*self.distillation_losses, *self.alignment_losses]
        self.term_weights = self.active_weights = all_weights(losses, loss_weights or {})
        self.balancing = balancing
        if balancing is not None:
            balancing.check_losses({**self.distillation_losses, **self.alignment_losses})
            balancing.attach(list(self.term_weights))
        refuse_unfit_parts(micro_batches, chunk_size, student)
        self.micro_batches = int(micro_batches)
        self.chunk_size = None if chunk_size is None else int(chunk_size)
        self._loss_layers = [*self.distillation_losses.values(), *self.alignment_losses.values()]
        self.term_trackers = term_trackers(list(self.term_weights))
        self._logged: tuple[str, ...] = ("loss",)
        requested_outputs(student, self._output_names())
        if teacher is not None:
            check_teacher(student, teacher, self.distillation_losses)
            teacher.trainable = False
        check_student(student, {**self.distillation_losses, **self.alignment_losses})
        # Set without Keras' tracking: neither trained nor saved (see __dir__).
        object.__setattr__(self, "_teacher_holder", (teacher,))
        object.__setattr__(self, "_forward", student)
        # Set by a callback that skips finished batches before training continues.
        object.__setattr__(self, "_read_on", None)
        self.built = True

    @property
    def step(self) -> Any:
        """Number of finished updates, an int32 scalar."""
        return ops.cast(self.optimizer.iterations, "int32")

    @property
    def teacher(self) -> keras.Model | None:
        """The live teacher, or None."""
        return self._teacher_holder[0]

    def __dir__(self) -> list[str]:
        # Keras saves every model that it finds with dir().
        return [name for name in super().__dir__() if name not in ("teacher", "_teacher_holder")]

    def call(self, x: Any, training: bool | None = None) -> Any:
        """Returns the student's output for `x` (for its source side if it is a batch)."""
        return self.student(unpack(x, None).source, training=bool(training))

    # ---- the run ----------------------------------------------------------

    def compile(self, optimizer: Any = "rmsprop", loss: Any = None, **arguments: Any) -> None:
        """Configures training as `keras.Model.compile` does.

        `loss` is the task loss on the labels (`y["label"]`), computed from the
        student's `logits` if it has several outputs. Gradient accumulation,
        clipping and learning rate schedules are arguments of the optimizer.

        Raises:
            InputError: If `loss_weights` is given, which is an argument of the
                Distiller, or there is no loss at all.
        """
        if arguments.get("loss_weights") is not None:
            raise InputError(
                "`loss_weights` is an argument of the Distiller. Received: "
                "compile(loss_weights=...). "
                "Pass Distiller(loss_weights={...})."
            )
        if loss is None and not self._loss_layers:
            raise InputError(
                "A Distiller needs a loss. Received: no distillation loss, no alignment loss, "
                'and compile without a loss. Pass distillation_losses={"embedding": ...}.'
            )
        super().compile(optimizer=optimizer, loss=loss, **arguments)
        for variable in self.balancing.trained(TASK) if self.balancing is not None else ():
            variable.trainable = loss is not None  # Otherwise it has no gradient.
        refuse_unfit_precision(self.optimizer)
        if self._distribute_strategy is not None:
            self._prepare_for_strategy()

    def _prepare_for_strategy(self) -> None:
        """Checks what the strategy supports, and replaces what Keras does differently under it."""
        require_tested_keras()
        refuse_unfit_optimizer(self.optimizer, self._distribute_strategy)
        if self._distribute_strategy.num_replicas_in_sync > 1:
            differ_by_replica(self.student)
        if self.jit_compile:
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
        `tf.data.Dataset` of batches. `Backup` and `Stages` of
        `kdkeras.training` are passed in `callbacks` like any other callback.

        Returns:
            The history, with one value per epoch for the loss and every term.

        Raises:
            NonFiniteLossError: At the step at which a term became NaN or
                infinite, naming the term.
            InputError: If there is a `sample_weight` and `y` is empty, `y`
                contains text, or a loss compares rows and a batch has one row.
        """
        arguments = {name: value for name, value in locals().items() if name in _FIT_ARGUMENTS}
        refuse_dropped_sample_weight(y, sample_weight)
        refuse_text_targets(y)
        # Keras warns that it cannot shuffle a dataset.
        arguments["shuffle"] = shuffle and not isinstance(x, tf.data.Dataset)
        if not isinstance(callbacks, keras.callbacks.CallbackList):
            arguments["callbacks"] = [StopOnNonFinite(), *keras.tree.flatten(callbacks or [])]
        with ExitStack() as stack:
            stack.enter_context(convert_single_row_error())
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
            InputError: If there is a `sample_weight` and `y` is empty.
        """
        refuse_dropped_sample_weight(y, sample_weight)
        return super().evaluate(
            x, y, batch_size, verbose, sample_weight, steps, callbacks, return_dict, **kwargs
        )

    def make_train_function(self, force: bool = False) -> Any:
        """Creates the optimizer's variables before the step is traced."""
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
        """Unpack, forward pass, loss terms, gradients, update, track."""
        batch = unpack_data(data)
        global_count = replicas.total(batch.count)
        variables = [v.value for v in self.trainable_weights]
        accumulated = AccumulatedStep()
        refuse_single_rows(batch, self.micro_batches, self._active_losses(), self.step)
        for part in batch.split(self.micro_batches):
            targets = self._targets(part)
            student = self._forward_pass(part, training=True)
            with tf.GradientTape() as tape:
                outputs = student.outputs(tape)
                terms = self._terms(part, targets, outputs)
                weighted = self._weighted(part, terms)
                loss = weighted.total / global_count
                scaled_loss = self.optimizer.scale_loss(loss)
            gradients = student.gradients(tape, scaled_loss, variables)
            accumulated.add(gradients, terms, targets, self._is_finite(loss))
            names = self._track(part, outputs, weighted.logs(terms, part.count))
        self._update(accumulated, global_count)
        return self._logs(names)

    def test_step(self, data: Any) -> dict[str, Any]:
        """Computes the same terms without gradients."""
        batch = unpack_data(data)
        outputs, terms = self._evaluated(batch)
        total = self._weighted(batch, terms).total
        return self._logs(self._track(batch, outputs, {"loss": total, **terms}))

    def loss_of(self, data: Any) -> Any:
        """Returns the loss of a batch without dropout, a scalar; nothing is tracked."""
        batch = unpack_data(data)
        _, terms = self._evaluated(batch)
        return self._weighted(batch, terms).total / batch.count

    def _evaluated(self, batch: Batch) -> tuple[StudentOutputs, Terms]:
        outputs = self._forward_pass(batch, training=False).outputs()
        return outputs, self._terms(batch, self._targets(batch), outputs)

    def _targets(self, batch: Batch) -> dict[str, Any]:
        """Cached targets, and those of the live teacher."""
        return teacher_targets(batch, self.teacher, *self._active_losses(), self.chunk_size)

    def _forward_pass(self, batch: Batch, training: bool) -> ForwardPass:
        """The student's pass over a batch: at once, or in chunks."""
        names = self._output_names(labeled=batch.labels is not None)
        requested = requested_outputs(self.student, names)

        def run(inputs: Batch) -> StudentOutputs:
            return select_outputs(forward(self._forward, inputs, training, requested), names)

        if self.chunk_size is None or fits_in_one_chunk(batch.source, self.chunk_size):
            return ForwardPass(run, batch)
        sparse = accepts_sparse(self.optimizer)
        return ChunkedPass(run, batch, self.chunk_size, self.student, sparse)

    def _terms(self, batch: Batch, targets: dict[str, Any], outputs: StudentOutputs) -> Terms:
        task = self._compile_loss if TASK in self.active_weights else None
        return {
            **loss_terms(batch, targets, outputs, *self._active_losses(), step=self.step),
            **task_term(batch, outputs, task),
            **regularization_term(batch, self.student.losses),
        }

    def _weighted(self, batch: Batch, terms: Terms) -> WeightedTerms:
        weights = weights_at(self.active_weights, self.step)
        return weight_terms(terms, weights, batch.count, self.balancing)

    def _is_finite(self, loss: Any) -> Any:
        """Whether this loss and all earlier ones are finite on all replicas.

        The running total stays NaN once a loss was: with `steps_per_execution`
        the steps after a non-finite one do not change the weights either.
        """
        return ops.isfinite(replicas.total(loss + self._loss_tracker.total.value))

    def _update(self, step: AccumulatedStep, global_count: Any) -> None:
        """Updates the weights, then the states of the balancing and the losses."""
        apply_gradients(self.optimizer, step.gradients, self.trainable_weights, step.finite)
        if self.balancing is not None:
            means = {name: value / global_count for name, value in step.terms.items()}
            self.balancing.update(means, step.finite)
        # At the end, so that all micro-batches use the same queue, without their own rows.
        update_memories(self._active_losses(), step.targets, step.finite)

    def _active_losses(self) -> tuple[dict[str, DistillationLoss], dict[str, AlignmentLoss]]:
        """The losses that are computed; a stage may use only some of them."""
        return (
            {n: loss for n, loss in self.distillation_losses.items() if n in self.active_weights},
            {n: loss for n, loss in self.alignment_losses.items() if n in self.active_weights},
        )

    def _output_names(self, labeled: bool = False) -> set[str]:
        """Names of the student's outputs that losses, and metrics of labels, read."""
        distillation, alignment = self._active_losses()
        names = {loss.student_output for loss in distillation.values()}
        names.update(["embedding"] if alignment else [])
        if labeled and (self._compile_loss, self._compile_metrics) != (None, None):
            names.add("logits")
        return names

    # ---- logs -------------------------------------------------------------

    def _track(self, batch: Batch, outputs: StudentOutputs, sums: Terms) -> tuple[str, ...]:
        """Updates the running means and the compiled metrics; returns the terms' names."""
        track(self.running_means(), sums, batch.count)
        if self._compile_metrics is not None and batch.labels is not None:
            prediction = select_output(outputs.source, "logits")
            self._compile_metrics.update_state(
                batch.labels, prediction, sample_weight=batch.sample_weight
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
        """Returns the running means of the loss and of every term, by name."""
        return {"loss": self._loss_tracker, **self.term_trackers}

    def get_metrics_result(self) -> dict[str, Any]:
        """Returns the logs of the steps so far, over all replicas and workers."""
        means = self.running_means()
        return {name: means[name].result() for name in self._logged} | self._compiled_results()

    # ---- saving -----------------------------------------------------------

    def save_own_variables(self, store: Any) -> None:
        """Saves the random states of the student, which Keras does not save."""
        save_random_states(self.student, store)

    def load_own_variables(self, store: Any) -> None:
        """Reads the random states of the student."""
        load_random_states(self.student, store)

    def compile_from_config(self, config: dict[str, Any]) -> None:
        """Compiles a loaded Distiller; Keras loads the optimizer's state afterwards."""
        self.compile(**keras.saving.deserialize_keras_object(config))
        self.optimizer.build(self.trainable_weights)

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments without the live teacher."""
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
