"""The training run: from a distillation set to a saved student."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdkeras import replicas
from kdkeras.data import DistillationSet, Vocabulary
from kdkeras.distillation.keras_hooks import RunCallback
from kdkeras.distribution import distribute_batches
from kdkeras.errors import InputError, WorkerLostError
from kdkeras.files import atomic_write, refuse_existing, refuse_unwritable
from kdkeras.progress import Progress, no_progress
from kdkeras.recipe import Recipe
from kdkeras.students import (
    Student,
    rotate_projection,
)
from kdkeras.training.backup import Backup, endless_batches
from kdkeras.training.callbacks import (
    QuantizationAwareTraining,
    ReportProgress,
    StopAtStep,
    StopOnTermination,
)
from kdkeras.training.preparation import (
    choose_vocabulary,
    compiled_distiller,
    copied_student,
    initialize_student,
    new_student,
    recipe_for_student,
    resolved,
    teacher_axes,
)

__all__ = ["TrainingResult", "train"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingResult:
    """Result of `train`.

    Attributes:
        student: The trained student, in float32 (as trained if it was stopped).
        recipe: The recipe that was used.
        history: One entry per epoch: `step`, and the mean of `loss` and of each
            term; what callbacks added to the logs is included.
        steps: Number of steps of the whole training.
        stopped_at: Step at which SIGTERM or a callback such as `EarlyStopping`
            stopped the training, or None if it took all steps. After SIGTERM only the
            backup is saved; a training that a callback stopped is saved as usual.
        seconds: Duration of the training, without the start.
    """

    student: Student
    recipe: Recipe
    history: list[dict[str, float]]
    steps: int
    stopped_at: int | None
    seconds: float


def train(
    student: str | Student | None,
    dataset: DistillationSet | str | os.PathLike[str],
    *,
    recipe: Recipe | None = None,
    vocabulary: Vocabulary | str | os.PathLike[str] | None = None,
    teacher: Any = None,
    output: str | os.PathLike[str] | None = None,
    backup: Backup | str | os.PathLike[str] | None = None,
    resume: bool = True,
    overwrite: bool = False,
    strategy: tf.distribute.Strategy | None = None,
    steps_per_epoch: int | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    progress: Progress = no_progress,
) -> TrainingResult:
    """Trains a student on a distillation set.

    This is the default job of kdkeras: the vocabulary, the start, the losses, their
    weights, the optimizer and the schedule follow from the recipe. For anything
    else build a `Distiller` and call `compile` and `fit`.

    With `backup` the training can be stopped at any time: the same call
    continues it, and its result equals that of an uninterrupted training. On
    SIGTERM, and on the first Ctrl-C, the current step is completed and saved to the
    backup.

    Args:
        student: Size of a new student (see `kdkeras.students.SIZES`), which
            overrides that of the recipe; or a trained student, of which a copy with
            all layers trainable is trained; or None for the size of the recipe.
        dataset: A distillation set, or its folder.
        recipe: The recipe; `Recipe()` by default.
        vocabulary: Vocabulary of a new student, or its folder. By default it is
            trained on the set.
        teacher: A kdkeras teacher, for `Recipe(start="teacher")`.
        output: A `.keras` file to write the student to. The recipe and the history
            are written next to it, as `.recipe.json` and `.history.json`.
        backup: A folder for backups, or a `Backup`. None by default.
        resume: Whether to continue from the backup if there is one.
        overwrite: Whether existing outputs are replaced.
        strategy: A strategy from `kdkeras.distribution.choose_strategy`; the
            current one by default.
        steps_per_epoch: Steps between two entries of the history, and two
            backups; one pass over all pairs by default.
        callbacks: More Keras callbacks, such as `EvaluationCallback`.
        progress: Called as `progress(task, done, total)`.

    Returns:
        The student, and how it was trained.

    Raises:
        InputError: For arguments or files that do not fit together, before any
            long computation.
        NonFiniteLossError: If a loss becomes NaN or infinite.
        WorkerLostError: If another worker no longer answers.
        KeyboardInterrupt: If the user interrupts; the student trained so far is
            saved to `output`.

    Example:
        >>> result = kdkeras.train("static_256", dataset, output="mine.keras")  # doctest: +SKIP
        >>> result.student.encode(["Guten Morgen"])  # doctest: +SKIP
    """
    given = student if isinstance(student, Student) else None
    recipe = recipe_for_student(Recipe() if recipe is None else recipe, given, student, teacher)
    own_callbacks = _checked_callbacks(callbacks)
    _check_steps_per_epoch(steps_per_epoch)
    files = _Files(output, backup, resume=resume, overwrite=overwrite)
    keras.utils.set_random_seed(recipe.seed)
    dataset = dataset if isinstance(dataset, DistillationSet) else DistillationSet(dataset)
    strategy = strategy or tf.distribute.get_strategy()
    words = choose_vocabulary(given, vocabulary, dataset, recipe, progress)
    with strategy.scope():
        model = (
            new_student(recipe, dataset, words)
            if given is None
            else copied_student(given, recipe, dataset)
        )
        used = resolved(recipe, model, given)
        run = _Run(model, words, dataset, used, strategy, steps_per_epoch)
        files.require(run, dataset, given)
        # After everything that may be refused: the start may take minutes.
        if given is None and not files.step:
            initialize_student(model, run.recipe, dataset, teacher, progress)
    return run.finish(files, run.fit(files, own_callbacks, progress))


def _checked_callbacks(callbacks: Any) -> list[keras.callbacks.Callback]:
    if isinstance(callbacks, keras.callbacks.CallbackList):
        raise InputError(
            "`callbacks` must be a list. Received: a CallbackList. Pass callbacks=[...]."
        )
    found = keras.tree.flatten(list(callbacks) if isinstance(callbacks, tuple) else callbacks or [])
    for callback in found:
        if isinstance(callback, RunCallback):
            raise InputError(
                "`train` shapes the run itself. Received: callbacks with a "
                f"{type(callback).__name__}. Pass backup=... for a Backup; for Stages build a "
                "Distiller and call fit."
            )
    return found


def _check_steps_per_epoch(steps: Any) -> None:
    if steps is not None and (isinstance(steps, bool) or int(steps) != steps or steps < 1):
        raise InputError(
            "`steps_per_epoch` must be an integer of at least 1. Received: "
            f"steps_per_epoch={steps}. Omit it for one pass over all pairs."
        )


class _Run:
    """One training: a compiled Distiller, its batches, and its number of steps."""

    def __init__(
        self,
        student: Student,
        vocabulary: Vocabulary,
        dataset: DistillationSet,
        recipe: Recipe,
        strategy: tf.distribute.Strategy,
        steps_per_epoch: int | None,
    ) -> None:
        self.student, self.vocabulary = student, vocabulary
        self.recipe, self.strategy = recipe, strategy
        one_pass = dataset.num_pairs // recipe.batch_size
        self.steps = recipe.steps or recipe.epochs * one_pass
        self.steps_per_epoch = min(steps_per_epoch or one_pass, self.steps)
        self.axes = teacher_axes(dataset) if recipe.dims else None
        batches = distribute_batches(
            strategy,
            dataset,
            recipe.batch_size,
            vocabulary,
            sequence_length=min(recipe.sequence_length, student.sequence_length),
            language_temperature=recipe.language_temperature,
            seed=recipe.seed,
        )
        # Endless, so that an epoch can have any number of steps.
        self.batches, _ = endless_batches(batches, self.steps_per_epoch)
        self.distiller = compiled_distiller(student, recipe, self.steps, self.axes)
        self.epochs = _Epochs()
        self.seconds = 0.0

    @property
    def step(self) -> int:
        """Number of updates that are done."""
        return int(self.distiller.optimizer.iterations.numpy())

    def fit(self, files: _Files, callbacks: Sequence[Any], progress: Progress) -> bool:
        """Trains to the last step; returns whether SIGTERM stopped the training before."""
        started = time.perf_counter()
        backups = [] if files.backup is None else [files.backup]
        signals = (signal.SIGINT, signal.SIGTERM) if backups else (signal.SIGINT,)
        with StopOnTermination(signals) as stop, self._errors(files):
            own = [StopAtStep(self.steps), stop, ReportProgress(progress, self.steps), self.epochs]
            self.distiller.fit(
                self.batches,
                epochs=-(-self.steps // self.steps_per_epoch),
                steps_per_epoch=self.steps_per_epoch,
                callbacks=[*callbacks, *self._quantization(), *own, *backups],
                verbose=0,
            )
        self.seconds = time.perf_counter() - started
        if stop.received == signal.SIGINT and self.step < self.steps:
            files.save(self)
            raise KeyboardInterrupt(files.interrupted(self))
        return stop.requested and self.step < self.steps

    def finish(self, files: _Files, stopped: bool) -> TrainingResult:
        """Saves a completed training, and returns the result."""
        student, history = self.student, [*files.earlier, *self.epochs.entries]
        if not stopped:
            student = files.save(self)
            files.finish(history, replicas.is_chief(self.strategy))
        return TrainingResult(
            student=student,
            recipe=self.recipe,
            history=history,
            steps=self.steps,
            stopped_at=self.step if self.step < self.steps else None,
            seconds=self.seconds,
        )

    def trained(self) -> Student:
        """Returns the student in float32, in the principal axes if the recipe says so."""
        student = self.student
        if self.recipe.mixed_precision or self.recipe.keep_axes:
            student = student.clone(dtype="float32")
        if self.recipe.keep_axes and self.axes is not None:
            rotate_projection(student, self.axes)
        return student

    def _quantization(self) -> list[keras.callbacks.Callback]:
        if self.recipe.quantization is None:
            return []
        start = round(self.recipe.quantization_start * self.steps)
        return [QuantizationAwareTraining(self.recipe.quantization, start_step=start)]

    @contextlib.contextmanager
    def _errors(self, files: _Files) -> Iterator[None]:
        """Tells what can be done after a lost worker or a second Ctrl-C."""
        try:
            yield
        except KeyboardInterrupt:
            kept = f"The backup is at step {files.step}." if files.step else "Nothing is saved."
            raise KeyboardInterrupt(f"Training was stopped within a step. {kept}") from None
        except tf.errors.UnavailableError as error:
            raise WorkerLostError(
                "All workers must run to the end. Received: a worker that no longer answers "
                f"({str(error).splitlines()[0][:80]}). Pass resume=True on all machines to "
                f"continue at step {files.step}."
            ) from error


class _Epochs(keras.callbacks.Callback):
    """Collects one entry per epoch: the step, and the logs."""

    def __init__(self) -> None:
        super().__init__()
        self.entries: list[dict[str, float]] = []

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Adds the entry."""
        step = int(self.model.optimizer.iterations.numpy())
        means = {name: float(value) for name, value in (logs or {}).items()}
        self.entries.append({"step": step, **means})


class _Files:
    """The files of a training: output, recipe, history and backup."""

    def __init__(self, output: Any, backup: Any, *, resume: bool, overwrite: bool) -> None:
        self.output = None if output is None else Path(output)
        self.backup = backup if backup is None or isinstance(backup, Backup) else Backup(backup)
        if self.output is not None and self.output.suffix != ".keras":
            raise InputError(
                f"The output must be a .keras file. Received: {output}. "
                f"Name it {self.output.stem}.keras."
            )
        if self.backup is not None:
            self.backup.open(resume=resume, overwrite=overwrite)
        self.earlier = [] if self.backup is None else list(self.backup.state["history"])
        if self.output is None:
            return
        self.recipe = self.output.with_suffix(".recipe.json")
        self.history = self.output.with_suffix(".history.json")
        for path in (self.output, self.recipe, self.history):
            refuse_unwritable(path)
            if not self.step:
                refuse_existing(path, overwrite)

    @property
    def step(self) -> int:
        """Step of the backup."""
        return 0 if self.backup is None else self.backup.step

    def require(self, run: _Run, dataset: DistillationSet, given: Student | None) -> None:
        """Refuses a backup of another training."""
        if self.backup is not None:
            self.backup.require(
                output=None if self.output is None else str(self.output),
                trained_student=None if given is None else _weights_sha256(given),
                **run.recipe.to_dict(),
                # The paths may hold other files than when the training started.
                vocabulary=run.vocabulary.fingerprint,
                teacher=dataset.teacher["fingerprint"],
                pairs=dataset.num_pairs,
                config=run.student.get_config(),
                steps_per_epoch=run.steps_per_epoch,
            )

    def save(self, run: _Run) -> Student:
        """Returns the trained student, and writes it with its recipe if there is an output."""
        student = run.trained()
        if self.output is not None and replicas.is_chief(run.strategy):
            with atomic_write(self.output) as temporary:
                student.save(temporary)
            run.recipe.save(self.recipe)
        return student

    def finish(self, history: list[dict[str, float]], is_chief: bool) -> None:
        """Writes the history, and deletes the backup."""
        if self.output is not None and is_chief:
            with atomic_write(self.history) as temporary:
                temporary.write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
        if self.backup is not None:
            self.backup.finish()

    def interrupted(self, run: _Run) -> str:
        """Returns what the user can do after Ctrl-C."""
        where = "lost" if self.output is None else f"in {self.output}"
        message = f"The student, trained for {run.step} of {run.steps} steps, is {where}."
        if self.backup is None:
            return message
        return f"{message} Pass resume=True to continue at step {self.step}."


def _weights_sha256(student: Student) -> str:
    found = hashlib.sha256()
    for weight in student.get_weights():
        found.update(np.ascontiguousarray(weight).tobytes())
    return found.hexdigest()
