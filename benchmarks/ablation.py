"""Measures what each loss adds: trains the same students with an increasing number of losses.

    python benchmarks/ablation.py --data DATA --teacher FOLDER --output RUNS/ablation

DATA is the folder described in `static_student.py`; it also needs `bitext/pud/XX.tsv.gz`
(`id<TAB>text`, the same ids in all files). `set` and `vocabulary-…` of another run may be linked
into OUTPUT; otherwise they are created there. The results of each run are written to
OUTPUT/results.json when the run ends, and completed runs are not repeated: an interrupted command
continues, and further seeds, settings or students are added to the results. OUTPUT/table.md
contains the table of all runs, losing ones included.

All settings of a student start from the same weights, the least squares fit to the cached
targets, which does not depend on the seed and is computed once per vocabulary. A static student
starts from this fit exactly, and its seeds differ only in the order of the batches. `mini` starts
from its token table and its projection (scaled so that embeddings have length 1 on average) and
has random blocks, which also depend on the seed.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from itertools import islice
from pathlib import Path
from typing import Any

from ablation_tables import (
    CUT_MEANS,
    DIMS,
    GUIDE_MARGIN,
    MEANS,
    MSE,
    PUD,
    RANKING,
    SETTINGS,
    START,
    means,
    table,
)
from static_student import evaluators, vocabulary, write_targets

from kdkeras.recipe import Recipe
from kdkeras.training.preparation import LEARNING_RATES, teacher_axes

RECIPE = Recipe()
STUDENTS = {
    "static_256": (1000, LEARNING_RATES[True], list(MEANS)),
    "mini": (100, LEARNING_RATES[False], ["STS across", "Tatoeba 12", "PUD 20"]),
}
"""Steps, maximum learning rate and figures by size. `mini` has fewer: its evaluation is slow."""


def pud_evaluators(data: Path) -> list[Any]:
    from kdkeras.data.text_files import read_lines
    from kdkeras.evaluation import TranslationEvaluator

    texts = {}
    for language in [*PUD, "en"]:
        lines = read_lines(data / f"bitext/pud/{language}.tsv.gz")
        texts[language] = dict(line.split("\t", 1) for _, line in lines if line.strip())
    english = texts.pop("en")
    return [
        TranslationEvaluator(
            f"pud_{language}", [own[key] for key in english], list(english.values())
        )
        for language, own in texts.items()
    ]


class CachedEncoder:
    """Encodes every sentence only once, for several evaluators and widths."""

    def __init__(self, encoder: Any) -> None:
        self.encoder = encoder
        self.vectors: dict[str, Any] = {}

    def encode(self, texts: list[str]) -> Any:
        """Returns `(len(texts), d)`."""
        import numpy as np

        new = [text for text in dict.fromkeys(texts) if text not in self.vectors]
        if new:
            self.vectors.update(zip(new, self.encoder.encode(new), strict=True))
        return np.stack([self.vectors[text] for text in texts])


class Rotated:
    """Rotates the embeddings of another encoder."""

    def __init__(self, encoder: Any, axes: Any) -> None:
        self.encoder, self.axes = encoder, axes

    def encode(self, texts: list[str]) -> Any:
        """Returns `(len(texts), d)`."""
        return self.encoder.encode(texts) @ self.axes


def least_squares_start(dataset: Any, words: Any, path: Path) -> Any:
    """Returns the static student at the least squares fit, from its file if it exists."""
    import keras

    import kdkeras
    from kdkeras import students

    if path.exists():
        return kdkeras.load(path)
    keras.utils.set_random_seed(0)
    student = students.build_student(
        "static_256",
        vocabulary=words,
        output_dim=dataset.embedding_dim,
        normalize=dataset.normalized,
    )
    started = time.perf_counter()
    print(students.initialize_from_targets(student, dataset))
    print(f"start: {time.perf_counter() - started:.0f} s", flush=True)
    part = path.with_stem(path.stem + "-part")
    student.save(part)
    part.replace(path)  # An existing file is therefore complete.
    return student


def new_student(size: str, setting: str, start: Any, texts: list[str]) -> Any:
    """Returns a student with the start weights."""
    import numpy as np

    from kdkeras import students

    student = students.build_student(
        size,
        vocabulary=start.vocabulary,
        output_dim=start.output_dim,
        normalize=start.normalize and setting != MSE,
    )
    kernel, bias = start.projection.get_weights()
    if size.startswith("static"):
        student.set_weights(start.get_weights())
    else:
        student.token_embedding.set_weights(start.token_embedding.get_weights())
        # The vectors after the norms of the blocks are longer than those of the static student.
        kernel = kernel / np.linalg.norm(student.encode_pooled(texts) @ kernel, axis=1).mean()
    student.projection.set_weights([kernel, bias])
    return student


def build_distiller(student: Any, setting: str, axes: Any) -> Any:
    """Returns the Distiller of a student with the losses of a setting."""
    from kdkeras import losses
    from kdkeras.distillation import Distiller, RunningMagnitude

    width, weights = len(axes), dict(RECIPE.loss_weights)
    distillation = {
        "embedding": losses.EmbeddingDistillation(),
        "similarity": losses.SimilarityDistillation(),
    }
    margin = GUIDE_MARGIN if setting == "guided" else None
    alignment = {"ranking": losses.TranslationRanking(guide_margin=margin)}
    if setting == MSE:
        distillation["embedding"] = losses.EmbeddingDistillation("mse")
        weights["embedding"] *= width / 2
    if setting == "matryoshka":
        dims = [width, *DIMS]
        shares = [1 / len(dims)] * len(dims)
        wrap = losses.Matryoshka
        distillation["embedding"] = wrap(distillation["embedding"], dims, shares, axes)
    used = {
        MSE: ["embedding"],
        "embedding": ["embedding"],
        "similarity": ["embedding", "similarity"],
    }.get(setting, list(weights))
    return Distiller(
        student,
        distillation_losses={n: loss for n, loss in distillation.items() if n in used},
        alignment_losses={n: loss for n, loss in alignment.items() if n in used},
        loss_weights={name: weights[name] for name in used},
        balancing=RunningMagnitude() if setting == "balanced" else None,
    )


def train(student: Any, dataset: Any, run: dict[str, Any], axes: Any) -> dict[str, Any]:
    if run["setting"] == START:
        return {"seconds": 0.0}
    import keras

    from kdkeras.optimizers import FusedAdam

    batches = dataset.batches(RECIPE.batch_size, student.vocabulary, seed=run["seed"])
    distiller = build_distiller(student, run["setting"], axes)
    steps, rate = run["steps"], STUDENTS[run["student"]][1]
    warmup = min(RECIPE.warmup, steps // 10)
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, decay_steps=steps - warmup, warmup_target=rate, warmup_steps=warmup
    )
    distiller.compile(optimizer=FusedAdam(schedule), jit_compile=False)
    started = time.perf_counter()
    history = distiller.fit(batches.repeat(), steps_per_epoch=steps, verbose=2)
    seconds = time.perf_counter() - started
    return {"seconds": round(seconds, 1), "history": history.history}


def evaluate(
    student: Any, setting: str, found: list[Any], axes: Any, names: list[str]
) -> dict[str, Any]:
    """Returns figures by language, and means of truncated embeddings for two of the settings."""
    from kdkeras.evaluation import TruncatedEncoder, evaluate_all

    started, encoder = time.perf_counter(), CachedEncoder(student)

    def of(names: list[str]) -> list[Any]:
        wanted = {f"{kind}_{x}" for kind, languages in map(MEANS.get, names) for x in languages}
        return [evaluator for evaluator in found if evaluator.name in wanted]

    figures: dict[str, Any] = evaluate_all(of(names), encoder)
    encoders = {
        RANKING: {RANKING: encoder, f"{RANKING}_rotated": Rotated(encoder, axes)},
        "matryoshka": {"matryoshka": Rotated(encoder, axes)},
    }.get(setting, {})
    cut_names = [name for name in CUT_MEANS if name in names]
    figures["cut"] = {
        name: {
            str(dim): means(evaluate_all(of(cut_names), TruncatedEncoder(one, dim)), cut_names)
            for dim in [len(axes), *DIMS]
        }
        for name, one in encoders.items()
    }
    return {**figures, "evaluation_seconds": round(time.perf_counter() - started, 1)}


def runs_of(arguments: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Returns the requested runs by key: all settings of one seed before the next seed."""
    steps = {student: STUDENTS[student][0] for student in arguments.students}
    for item in arguments.steps:
        student, _, number = item.rpartition("=")
        steps.update(dict.fromkeys([student] if student else arguments.students, int(number)))
    found = {}
    for student in arguments.students:
        for seed in arguments.seeds:
            for setting in arguments.settings:
                run = {"student": student, "steps": steps[student], "setting": setting}
                run = {"vocabulary": arguments.vocabulary, **run, "seed": seed}
                found["/".join(map(str, run.values()))] = run
    return found


def arguments_given() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the corpora")
    parser.add_argument("--teacher", type=Path, required=True, help="sentence-transformers folder")
    parser.add_argument("--output", type=Path, required=True, help="folder for all results")
    parser.add_argument("--vocabulary", default="mixed:65536")
    parser.add_argument("--students", nargs="+", choices=STUDENTS, default=list(STUDENTS))
    parser.add_argument(
        "--steps",
        nargs="+",
        default=[],
        metavar="[STUDENT=]N",
        help="number of batches of 256 pairs; default "
        + " ".join(f"{student}={steps}" for student, (steps, *_) in STUDENTS.items()),
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    return parser.parse_args()


def write(path: Path, text: str) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(text)
    part.replace(path)


def main() -> None:
    arguments = arguments_given()
    output, results_file = arguments.output, arguments.output / "results.json"
    output.mkdir(parents=True, exist_ok=True)
    results = json.loads(results_file.read_text()) if results_file.exists() else {}
    runs = runs_of(arguments)
    missing = {key: run for key, run in runs.items() if key not in results}
    print(f"{len(runs)} runs, of which {len(runs) - len(missing)} are complete", flush=True)
    if missing:
        import keras

        dataset = write_targets(arguments.data, arguments.teacher, output)
        words = vocabulary(dataset, arguments.vocabulary, output)
        name = f"start-{arguments.vocabulary.replace(':', '-')}.keras"
        start = least_squares_start(dataset, words, output / name)
        axes = teacher_axes(dataset)
        texts = list(islice(dataset.sentences(), 1_000))
        found = evaluators(arguments.data) + pud_evaluators(arguments.data)
    for number, (key, run) in enumerate(missing.items(), 1):
        print(f"{number} of {len(missing)}: {key}", flush=True)
        keras.utils.set_random_seed(run["seed"])
        names = STUDENTS[run["student"]][2]
        student = new_student(run["student"], run["setting"], start, texts)
        trained = train(student, dataset, run, axes)
        figures = evaluate(student, run["setting"], found, axes, names)
        results[key] = {**run, **trained, **figures}
        write(results_file, json.dumps(results, indent=1))
        write(output / "table.md", table(list(results.values())))
        figures = means(results[key], names)
        print(
            f"{key}: training {trained['seconds']:.0f} s, evaluation "
            f"{results[key]['evaluation_seconds']:.0f} s, "
            + ", ".join(f"{name} {value:.1f}" for name, value in figures.items()),
            flush=True,
        )
        del student
        gc.collect()
    print(table(list(results.values())))


if __name__ == "__main__":
    main()
