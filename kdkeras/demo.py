"""The main job once, on the bundled sample: train, evaluate, export, verify, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from kdkeras import data, export
from kdkeras.cli.fit_progress import FitProgress
from kdkeras.cli.progress import bar
from kdkeras.config import BATCH_SIZE, LEARNING_RATE, LOSS_WEIGHTS
from kdkeras.errors import InputError
from kdkeras.evaluation import TranslationEvaluator, evaluate_all
from kdkeras.export.model_card import TrainingData
from kdkeras.files import atomic_write
from kdkeras.students import (
    StaticStudent,
    Student,
    build_student,
    initialize_from_targets,
    rotate_projection,
)
from kdkeras.training import EvaluationCallback
from kdkeras.training.recipe import build_distiller, build_optimizer, default_dims, teacher_axes

__all__ = ["run_demo"]

SEQUENCE_LENGTH = 64

MARK = ".kdkeras-demo"
"""A file that only a demo's folder has."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Training:
    """What training gave.

    Attributes:
        student: The trained student.
        history: Mean of each loss by epoch.
        before: Accuracy by language of the untrained student, in [0, 1].
        after: The same after training.
        seconds: How long `fit` took, evaluation included.
    """

    student: Student
    history: dict[str, list[float]]
    before: dict[str, float]
    after: dict[str, float]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The bundled sample, opened."""

    dataset: data.DistillationSet
    vocabulary: data.Vocabulary
    pairs: dict[str, tuple[list[str], list[str]]]

    def evaluators(self) -> list[TranslationEvaluator]:
        """Returns one evaluator a language."""
        return [
            TranslationEvaluator(f"tatoeba_{name}", *sides) for name, sides in self.pairs.items()
        ]

    def by_language(self, figures: dict[str, float]) -> dict[str, float]:
        """Picks each language's accuracy, in [0, 1]."""
        return {name: figures[f"tatoeba_{name}_accuracy"] for name in self.pairs}


@dataclass(kw_only=True)
class _Finished:
    """What an interrupted demo leaves."""

    paths: dict[str, Path] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.paths:
            return "Nothing was finished."
        return "Finished: " + ", ".join(f"{n} ({p})" for n, p in self.paths.items()) + "."


def run_demo(output: Path, *, epochs: int, preset: str, seed: int, say: Say) -> dict[str, Any]:
    """Runs every stage and leaves everything in one folder.

    Args:
        output: New, empty, or a folder that an earlier demo wrote: what that
            demo wrote is replaced.
        epochs: Passes over the sample.
        preset: The student's preset.
        seed: Seed of weights, order and draws.
        say: Called with one line at each stage.

    Returns:
        `languages` (accuracy before and after, in [0, 1]), `artifacts` (as
        `kdkeras.export.verify` measured them), `paths`, `seconds`.

    Raises:
        InputError: If the folder holds something else.
        GateError: If an artifact differs too much from Keras; the report is
            written before.
        KeyboardInterrupt: Saying what is finished and usable.
    """
    started = time.perf_counter()
    _prepare(output)
    finished = _Finished()
    try:
        sample = _open_sample()
        training = _train(sample, preset, epochs, seed, say)
        finished.paths["student"] = _save(training.student, output / "student.keras")
        artifacts = output / "artifacts"
        export.export_student(
            training.student, artifacts, overwrite=True, name=f"demo_{preset}", progress=say
        )
        finished.paths["artifacts"] = artifacts
        parity = export.verify(
            artifacts, training.student, sample.pairs, enforce=False, progress=say
        )
        settings = {"epochs": epochs, "batch size": BATCH_SIZE, "learning rate": LEARNING_RATE}
        finished.paths.update(_report(output, sample, training, parity, {**settings, "seed": seed}))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(str(finished)) from None
    export.check_gates(parity)
    return {
        "languages": {
            name: {"before": training.before[name], "after": training.after[name]}
            for name in sample.pairs
        },
        "artifacts": parity["artifacts"],
        "paths": {name: str(path) for name, path in finished.paths.items()},
        "seconds": {
            "training": round(training.seconds, 1),
            "all": round(time.perf_counter() - started, 1),
        },
    }


def _prepare(output: Path) -> None:
    """Takes the folder, unless it holds anything but an earlier demo."""
    if output.exists() and not output.is_dir():
        raise InputError(
            f"The output must be a folder. Received: {output}. Choose another with --output."
        )
    if output.is_dir() and any(output.iterdir()) and not (output / MARK).is_file():
        raise InputError(
            "The demo replaces only what an earlier demo wrote. "
            f"Received: {output}, which holds something else. Choose another with --output."
        )
    output.mkdir(parents=True, exist_ok=True)
    with atomic_write(output / MARK) as temporary:
        temporary.write_text("Written by kdkeras demo, which replaces its own files.\n")


def _open_sample() -> Sample:
    folder = data.sample_folder()
    return Sample(
        dataset=data.DistillationSet(folder / "distillation_set"),
        vocabulary=data.load_vocabulary(folder / "vocabulary"),
        pairs=data.read_translation_pairs(folder / "held_out"),
    )


def _train(sample: Sample, preset: str, epochs: int, seed: int, say: Say) -> Training:
    """Trains with `model.fit` as a user would."""
    keras.utils.set_random_seed(seed)
    dataset = sample.dataset
    student = build_student(
        preset,
        vocabulary=sample.vocabulary,
        output_dim=dataset.embedding_dim,
        normalize=dataset.normalized,
        sequence_length=SEQUENCE_LENGTH,
    )
    say(
        f"{dataset.num_groups:,} sentences with {dataset.num_pairs:,} translations in "
        f"{len(dataset.languages)} languages, teacher {dataset.teacher['name']}"
    )
    say(f"Student {preset}: {student.count_params():,} parameters")
    evaluators = sample.evaluators()
    before = sample.by_language(evaluate_all(evaluators, student))
    batches = dataset.batches(
        BATCH_SIZE, sample.vocabulary, sequence_length=SEQUENCE_LENGTH, seed=seed
    )
    steps = epochs * int(batches.cardinality())
    dims = default_dims(student)
    axes = teacher_axes(dataset)
    distiller = build_distiller(student, LOSS_WEIGHTS, dims=dims, axes=axes)
    distiller.compile(build_optimizer(LEARNING_RATE, 100, steps), jit_compile=False)
    started = time.perf_counter()
    if isinstance(student, StaticStudent):
        with bar("Start", "sentences, read and fitted") as report:
            initialize_from_targets(student, dataset, progress=report)
    if dims:
        rotate_projection(student, axes)
    with FitProgress(steps) as progress:
        history = distiller.fit(
            batches,
            epochs=epochs,
            callbacks=[EvaluationCallback(evaluators), progress],
            verbose=0,
        )
    if dims:  # Back into the teacher's space.
        rotate_projection(student, axes.T)
    last = {name: values[-1] for name, values in history.history.items()}
    return Training(
        student=student,
        history={n: v for n, v in history.history.items() if not n.startswith("tatoeba_")},
        before=before,
        after=sample.by_language(last),
        seconds=time.perf_counter() - started,
    )


def _save(student: Student, path: Path) -> Path:
    with atomic_write(path) as temporary:
        student.save(temporary)
    return path


def _report(
    output: Path,
    sample: Sample,
    training: Training,
    parity: dict[str, Any],
    settings: dict[str, Any],
) -> dict[str, Path]:
    """Writes the report and the model card; returns their paths."""
    dataset = sample.dataset
    accuracy = {"untrained": training.before, "trained": training.after}
    details = {
        "student": f"{training.student.name}, {training.student.count_params():,} parameters",
        "teacher": dataset.teacher["name"],
        "source sentences": dataset.num_groups,
        "pairs": dataset.num_pairs,
        "losses": ", ".join(f"{name} {weight:g}" for name, weight in LOSS_WEIGHTS.items()),
        **settings,
        "training, s": round(training.seconds, 1),
    }
    report = export.write_report(
        output,
        title=f"kdkeras demo: {training.student.name}",
        history=training.history,
        accuracy=accuracy,
        parity=parity,
        details=details,
    )
    card = export.write_model_card(
        output / "artifacts",
        teacher=f"sentence-transformers/{dataset.teacher['name']}",
        license="apache-2.0",
        training_data=[_tatoeba(dataset)],
        accuracy=accuracy,
        parity=parity,
        details=details,
    )
    return {"report": report, "report data": report.with_suffix(".json"), "model card": card}


def _tatoeba(dataset: data.DistillationSet) -> TrainingData:
    return TrainingData(
        name="tatoeba",
        description=f"{dataset.num_pairs:,} pairs of everyday sentences, bundled with kdkeras.",
        license="CC BY 2.0 FR",
        attribution=(data.sample_folder() / "ATTRIBUTION.md").read_text("utf-8").strip(),
    )
