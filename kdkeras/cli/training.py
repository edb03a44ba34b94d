"""What `kdkeras distill` does: build, fit with backups, save."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from kdkeras import replicas
from kdkeras.cli.fit_progress import FitProgress, StopAt
from kdkeras.cli.models import load_student
from kdkeras.cli.progress import bar
from kdkeras.data import DistillationSet, Vocabulary, load_vocabulary
from kdkeras.distillation import Distiller
from kdkeras.distribution import choose_strategy, distribute_batches
from kdkeras.errors import InputError, WorkerLostError
from kdkeras.files import atomic_write, refuse_existing
from kdkeras.students import (
    StaticStudent,
    Student,
    build_student,
    initialize_from_targets,
    initialize_from_teacher,
    rotate_projection,
)
from kdkeras.training import Backup, QuantizationAwareTraining, StopOnTermination
from kdkeras.training.recipe import (
    build_distiller,
    build_optimizer,
    decaying,
    default_dims,
    teacher_axes,
)

__all__ = ["train"]

# Arguments that a resumed run may change.
_FREE = ("command", "json", "overwrite", "resume")


def train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains a student as the arguments say.

    Returns:
        Paths, first and last losses, number of steps and parameters, seconds;
        after SIGTERM the step it stopped at and where the backup is.

    Raises:
        InputError: For arguments or files that do not fit together.
        KeyboardInterrupt: If the user interrupted; the student is saved.
    """
    output = arguments.output
    backup = _open_backup(arguments)
    # First: virtual CPUs can only be made before TensorFlow runs anything.
    strategy = choose_strategy(arguments.strategy, arguments.replicas)
    keras.utils.set_random_seed(arguments.seed)
    dataset = DistillationSet(arguments.set)
    vocabulary = load_vocabulary(arguments.vocabulary)
    # The paths may hold something else than when the training began.
    backup.require(
        vocabulary_fingerprint=vocabulary.fingerprint,
        teacher=dataset.teacher["fingerprint"],
        pairs=dataset.num_pairs,
    )
    with strategy.scope():
        given = arguments.student.endswith(".keras")
        make = _given_student if given else _new_student
        student = make(arguments, dataset, vocabulary)
        dims = default_dims(student) if arguments.dims is None else arguments.dims
        axes = teacher_axes(dataset) if dims else None
        once = dataset.num_pairs // arguments.batch_size
        steps = arguments.steps or arguments.epochs * once
        weights = decaying(arguments.losses, arguments.decay, max(1, steps))
        # The Distiller's own policy makes Keras scale float16 losses.
        distiller = build_distiller(
            student, weights, dims=dims, axes=axes, dtype=student.dtype_policy
        )
        batches = distribute_batches(
            strategy,
            dataset,
            arguments.batch_size,
            vocabulary,
            sequence_length=min(arguments.sequence_length, student.sequence_length),
            language_temperature=arguments.language_temperature,
            seed=arguments.seed,
        )
        distiller.compile(
            optimizer=build_optimizer(
                arguments.learning_rate, arguments.warmup, steps, arguments.optimizer
            ),
            jit_compile=arguments.jit,
        )
        # After all that may be refused: the start may take minutes.
        if not backup.step:  # Else its weights are in the backup.
            if not given:
                _start(student, arguments, dataset, axes)
            elif axes is not None:
                rotate_projection(student, axes)
    back = None if axes is None or arguments.keep_axes else axes.T
    started = time.perf_counter()
    try:
        every = min(arguments.checkpoint_every or once, steps)
        rounding = _rounding(arguments.quantization_aware_training, steps)
        termination = _fit(distiller, batches, backup, steps, every, rounding)
    except KeyboardInterrupt:
        _save(student, output, strategy, back)
        done = int(distiller.optimizer.iterations.numpy())
        raise KeyboardInterrupt(
            f"The student as trained for {done} of {steps} steps is in {output}. The same "
            f"command with --resume goes on from step {backup.step}."
        ) from None
    except tf.errors.UnavailableError as error:
        raise WorkerLostError(
            f"All workers must stay to the end. Received: a worker that no longer answers "
            f"({str(error).splitlines()[0][:80]}). Start the same command with --resume on all "
            f"machines: it goes on from step {backup.step}."
        ) from error
    if termination.requested and backup.step < steps:
        return {"stopped_at": backup.step, "steps": steps, "backup": str(backup.folder)}
    _save(student, output, strategy, back)
    history = backup.finish(_history_file(output))
    return {
        "output": str(output),
        "history": str(_history_file(output)),
        "steps": steps,
        "seconds": round(time.perf_counter() - started, 1),
        "parameters": student.count_params(),
        "first": history[0],
        "last": history[-1],
    }


def _open_backup(arguments: argparse.Namespace) -> Backup:
    output = arguments.output
    if output.suffix != ".keras":
        raise InputError(
            f"The output must be a .keras file. Received: {output}. Name it {output.stem}.keras."
        )
    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(arguments).items()
        if name not in _FREE
    }
    backup = Backup(output.with_suffix(".backup"), settings=settings)
    backup.open(resume=arguments.resume, overwrite=arguments.overwrite)
    if not backup.step:
        for path in (output, _history_file(output)):
            refuse_existing(path, arguments.overwrite)
    return backup


def _history_file(output: Path) -> Path:
    return output.with_suffix(".history.json")


def _new_student(
    arguments: argparse.Namespace, dataset: DistillationSet, vocabulary: Vocabulary
) -> Student:
    return build_student(
        arguments.student,
        vocabulary=vocabulary,
        output_dim=dataset.embedding_dim,
        normalize=dataset.normalized,
        table_rank=arguments.table_rank,
        sequence_length=arguments.sequence_length,
        dtype=_dtype(arguments),
    )


def _given_student(
    arguments: argparse.Namespace, dataset: DistillationSet, vocabulary: Vocabulary
) -> Student:
    """A trained student that goes on; its file stays as it is."""
    for option in ("table_rank", "start", "init_from_teacher"):
        if getattr(arguments, option) is not None:
            raise InputError(
                "A trained student has its table and its start. Received: "
                f"--{option.replace('_', '-')} and --student {arguments.student}. Leave one out."
            )
    trained = load_student(arguments.student)
    if trained.vocabulary is None or trained.vocabulary.fingerprint != vocabulary.fingerprint:
        raise InputError(
            "A trained student goes on with its own vocabulary. Received: "
            f"{arguments.vocabulary}, another one than {arguments.student} has. Pass the one that "
            "it was trained or grown with."
        )
    if trained.output_dim != dataset.embedding_dim:
        raise InputError(
            "A trained student must be as wide as the cached targets. Received: output_dim="
            f"{trained.output_dim} in {arguments.student}, {dataset.embedding_dim} in "
            f"{arguments.set}. Take a set of the teacher that it learned from."
        )
    return trained.clone(dtype=_dtype(arguments))


def _dtype(arguments: argparse.Namespace) -> str:
    precision = arguments.mixed_precision
    return f"mixed_{precision}" if precision else "float32"


def _start(
    student: Student,
    arguments: argparse.Namespace,
    dataset: DistillationSet,
    axes: np.ndarray | None,
) -> None:
    """Gives the untrained student the weights that training begins with."""
    if arguments.init_from_teacher:
        from kdkeras import teachers

        teacher = teachers.load(arguments.init_from_teacher)
        initialize_from_teacher(student, teacher, seed=arguments.seed)
        return  # Its last layer is random, and need not be turned.
    default = "targets" if isinstance(student, StaticStudent) else "random"
    if (arguments.start or default) == "targets":
        with bar("Start", "sentences, read and fitted") as progress:
            initialize_from_targets(
                student,
                dataset,
                language_temperature=arguments.language_temperature,
                progress=progress,
            )
        if axes is not None:
            rotate_projection(student, axes)


def _rounding(chosen: tuple[str, float] | None, steps: int) -> list[keras.callbacks.Callback]:
    """The callback of --quantization-aware-training, if it is asked for."""
    if chosen is None:
        return []
    scheme, fraction = chosen
    return [QuantizationAwareTraining(scheme, start_step=round(fraction * steps))]


def _fit(
    distiller: Distiller,
    batches: Any,
    backup: Backup,
    steps: int,
    every: int,
    rounding: list[keras.callbacks.Callback],
) -> StopOnTermination:
    """Trains from the backup's step to the last, in rounds of `every` steps."""
    with StopOnTermination() as termination, FitProgress(steps) as progress:
        distiller.fit(
            batches,
            epochs=-(-steps // every),
            steps_per_epoch=every,
            callbacks=[StopAt(steps), termination, progress, *rounding, backup],
            verbose=0,
        )
    return termination


def _save(
    student: Student, output: Path, strategy: tf.distribute.Strategy, back: np.ndarray | None
) -> None:
    """Saves the student, if no other worker does; after mixed precision as a float32 model.

    `back` is the rotation from the axes it was trained in to the teacher's space.
    """
    if not replicas.is_chief(strategy):
        return
    copy = student.clone(dtype="float32")
    if back is not None:
        rotate_projection(copy, back)
    with atomic_write(output) as temporary:
        copy.save(temporary)
