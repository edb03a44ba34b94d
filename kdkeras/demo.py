"""Runs the main job once on the bundled sample: train, evaluate, export, verify, report."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras

from kdkeras import data, export
from kdkeras.cli.progress import show_progress
from kdkeras.errors import InputError
from kdkeras.evaluation import TranslationEvaluator, evaluate_all
from kdkeras.export import TrainingData
from kdkeras.files import atomic_write
from kdkeras.recipe import Recipe
from kdkeras.training import EvaluationCallback, TrainingResult, train
from kdkeras.training.preparation import new_student

__all__ = ["run_demo"]

MARK = ".kdkeras-demo"
"""A file that only the folder of a demo contains."""

Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The bundled sample, opened."""

    dataset: data.DistillationSet
    vocabulary: data.Vocabulary
    pairs: dict[str, tuple[list[str], list[str]]]

    def evaluators(self) -> list[TranslationEvaluator]:
        """Returns one evaluator per language."""
        return [
            TranslationEvaluator(f"tatoeba_{name}", *sides) for name, sides in self.pairs.items()
        ]

    def by_language(self, figures: dict[str, float]) -> dict[str, float]:
        """Returns the accuracy by language, in [0, 1]."""
        return {name: figures[f"tatoeba_{name}_accuracy"] for name in self.pairs}


@dataclass(kw_only=True)
class _Finished:
    """Files that are complete when a demo is interrupted."""

    paths: dict[str, Path] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.paths:
            return "Nothing was finished."
        return "Finished: " + ", ".join(f"{n} ({p})" for n, p in self.paths.items()) + "."


def run_demo(output: Path, *, recipe: Recipe, say: Say) -> dict[str, Any]:
    """Runs every stage and writes everything into one folder.

    Args:
        output: New, empty, or a folder that an earlier demo wrote: the files of
            that demo are replaced.
        recipe: The recipe of the training.
        say: Called with one line at each stage.

    Returns:
        `languages` (accuracy before and after, in [0, 1]), `artifacts` (results of
        `kdkeras.export.verify`), `paths`, `seconds`.

    Raises:
        InputError: If the folder contains other files.
        GateError: If an artifact differs too much from Keras; the report is
            written before.
        KeyboardInterrupt: Naming the files that are complete.
    """
    started = time.perf_counter()
    _prepare(output)
    finished = _Finished()
    try:
        with show_progress() as progress:
            sample = _open_sample()
            before = _untrained(sample, recipe, say)
            result = train(
                recipe.student,
                sample.dataset,
                recipe=recipe,
                vocabulary=sample.vocabulary,
                output=output / "student.keras",
                overwrite=True,
                callbacks=[EvaluationCallback(sample.evaluators())],
                progress=progress,
            )
            after = sample.by_language(result.history[-1])
            finished.paths["student"] = output / "student.keras"
            finished.paths["recipe"] = output / "student.recipe.json"
            artifacts = output / "artifacts"
            export.export_student(
                result.student,
                artifacts,
                overwrite=True,
                name=f"demo_{recipe.student}",
                progress=progress,
            )
            finished.paths["artifacts"] = artifacts
            parity = export.verify(
                artifacts, result.student, sample.pairs, enforce=False, progress=progress
            )
        accuracy = {"untrained": before, "trained": after}
        finished.paths.update(_report(output, sample, result, accuracy, parity))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(str(finished)) from None
    export.check_gates(parity)
    return {
        "languages": {
            name: {"before": before[name], "after": after[name]} for name in sample.pairs
        },
        "artifacts": parity["artifacts"],
        "paths": {name: str(path) for name, path in finished.paths.items()},
        "seconds": {
            "training": round(result.seconds, 1),
            "all": round(time.perf_counter() - started, 1),
        },
    }


def _prepare(output: Path) -> None:
    """Creates the folder, or refuses one that contains other files."""
    if output.exists() and not output.is_dir():
        raise InputError(f"The output must be a folder. Received: {output}. Choose another one.")
    if output.is_dir() and any(output.iterdir()) and not (output / MARK).is_file():
        raise InputError(
            "The demo replaces only files of an earlier demo. "
            f"Received: {output}, which contains other files. Choose another folder."
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


def _untrained(sample: Sample, recipe: Recipe, say: Say) -> dict[str, float]:
    """Returns the accuracy by language of the student with random weights."""
    keras.utils.set_random_seed(recipe.seed)
    dataset = sample.dataset
    student = new_student(recipe, dataset, sample.vocabulary)
    say(
        f"{dataset.num_groups:,} sentences with {dataset.num_pairs:,} translations in "
        f"{len(dataset.languages)} languages, teacher {dataset.teacher['name']}"
    )
    say(f"Student {recipe.student}: {student.count_params():,} parameters")
    return sample.by_language(evaluate_all(sample.evaluators(), student))


def _report(
    output: Path,
    sample: Sample,
    result: TrainingResult,
    accuracy: dict[str, dict[str, float]],
    parity: dict[str, Any],
) -> dict[str, Path]:
    """Writes the report and the model card; returns their paths."""
    dataset, recipe, student = sample.dataset, result.recipe, result.student
    losses = recipe.loss_weights
    details = {
        "student": f"{student.name}, {student.count_params():,} parameters",
        "teacher": dataset.teacher["name"],
        "source sentences": dataset.num_groups,
        "pairs": dataset.num_pairs,
        "losses": ", ".join(f"{name} {weight:g}" for name, weight in losses.items()),
        "epochs": recipe.epochs,
        "batch size": recipe.batch_size,
        "learning rate": recipe.learning_rate,
        "seed": recipe.seed,
        "training, s": round(result.seconds, 1),
    }
    names = [name for name in result.history[0] if not name.startswith(("tatoeba_", "step"))]
    history = {name: [entry[name] for entry in result.history] for name in names}
    report = export.write_report(
        output,
        title=f"kdkeras demo: {student.name}",
        history=history,
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
