"""Trains the static student on a full parallel corpus and writes a table by language.

    python benchmarks/static_student.py --data DATA --teacher FOLDER --output RUNS/static

DATA contains `parallel/*/en-XX.tsv.gz`, `bitext/tatoeba/XXX-eng.tsv.gz` and
`sts/stsb/XX.test.tsv.gz`. Targets are written once and reused. Each vocabulary of --vocabulary
(KIND:SIZE, or KIND:SIZE:TEMPERATURE with 1.0 for the natural shares of the languages) is trained
on the same sentences and used for the same number of steps. The table has one row per run, losing
runs included. All other settings are those of the default recipe.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from kdkeras.recipe import Recipe

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

RECIPE = Recipe()
LANGUAGES = {
    "de": "deu",
    "es": "spa",
    "fr": "fra",
    "it": "ita",
    "pt": "por",
    "nl": "nld",
    "pl": "pol",
    "ru": "rus",
    "zh": "cmn",
    "ja": "jpn",
    "tr": "tur",
    "ar": "ara",
    "ko": "kor",
    "hi": "hin",
    "vi": "vie",
    "cs": "ces",
    "uk": "ukr",
    "el": "ell",
    "he": "heb",
    "th": "tha",
    "hu": "hun",
    "fi": "fin",
    "bg": "bul",
    "mr": "mar",
    "sv": "swe",
    "da": "dan",
    "ro": "ron",
    "id": "ind",
}
"""Two-letter names of the corpus files to three-letter names of the retrieval files."""
TWELVE, FURTHER = list(LANGUAGES)[:12], list(LANGUAGES)[12:]
STS = TWELVE[:10]


def evaluators(data: Path) -> list[Any]:
    from kdkeras.evaluation import EmbeddingSimilarityEvaluator, TranslationEvaluator

    found: list[Any] = [
        TranslationEvaluator.from_tsv(
            data / f"bitext/tatoeba/{iso}-eng.tsv.gz", f"tatoeba_{language}"
        )
        for language, iso in LANGUAGES.items()
    ]
    english = EmbeddingSimilarityEvaluator.from_tsv(data / "sts/stsb/en.test.tsv.gz", "within_en")
    found.append(english)
    for language in STS:
        own = EmbeddingSimilarityEvaluator.from_tsv(
            data / f"sts/stsb/{language}.test.tsv.gz", f"within_{language}"
        )
        found.append(own)
        found.append(
            EmbeddingSimilarityEvaluator(
                f"across_{language}", english.sentences1, own.sentences2, own.scores
            )
        )
    return found


def write_targets(data: Path, teacher_folder: Path, output: Path) -> Any:
    from kdkeras import data as kd
    from kdkeras import teachers

    if (output / "set" / "manifest.json").exists():
        return kd.DistillationSet(output / "set")
    files = sorted((data / "parallel").glob("*/en-*.tsv.gz"))
    exclude = sorted((data / "bitext/tatoeba").glob("*-eng.tsv.gz"))
    started = time.perf_counter()
    dataset = kd.write_distillation_set(
        files,
        teachers.load(teacher_folder),
        output / "set",
        exclude=exclude,
        progress=show,
    )
    print(f"\ntargets: {time.perf_counter() - started:.0f} s")
    return dataset


def vocabulary(dataset: Any, name: str, output: Path) -> Any:
    from kdkeras import data as kd

    folder = output / f"vocabulary-{name.replace(':', '-')}"
    if not folder.exists():
        kind, size, *temperature = name.split(":")
        sentences = dataset.sentences(float(temperature[0])) if temperature else dataset
        kd.train_vocabulary(sentences, size=int(size), kind=kind).save(folder)
    return kd.load_vocabulary(folder)


def train(
    dataset: Any, words: Any, arguments: argparse.Namespace, folder: Path
) -> tuple[dict[str, Any], Any]:
    """Trains with the recipe; returns durations and losses, and the student."""
    import kdkeras
    from kdkeras import teachers

    recipe = kdkeras.Recipe(
        student=arguments.student,
        start=arguments.start,
        loss_weights={k: float(v) for k, v in (item.split("=") for item in arguments.losses)},
        dims=None if arguments.dims is None else tuple(arguments.dims),
        steps=arguments.steps,
        learning_rate=arguments.learning_rate,
        seed=arguments.seed,
    )
    started = time.perf_counter()
    result = kdkeras.train(
        None,
        dataset,
        recipe=recipe,
        vocabulary=words,
        teacher=teachers.load(arguments.teacher) if arguments.start == "teacher" else None,
        output=folder / "student.keras",
        overwrite=True,
        steps_per_epoch=500,
        progress=show,
    )
    seconds = time.perf_counter() - started
    return {
        "start_seconds": round(seconds - result.seconds, 1),
        "seconds": round(result.seconds, 1),
        "steps_per_second": round(arguments.steps / result.seconds, 2),
        "parameters": result.student.count_params(),
        "history": result.history,
        "recipe": result.recipe.to_dict(),
    }, result.student


def show(task: str, done: int, total: int) -> None:
    """Prints progress in one line."""
    print(f"\r{task}: {done:,} of {total:,}", end="\n" if done == total else "", flush=True)


def percentages(result: dict[str, float], kind: str, languages: list[str]) -> list[float]:
    """The figures of one kind (`tatoeba`, `across`, …), by language, times 100."""
    name = "spearman" if kind in ("across", "within") else "accuracy"
    return [100 * result[f"{kind}_{language}_{name}"] for language in languages]


def row(name: str, result: dict[str, float], kind: str, languages: list[str]) -> str:
    values = percentages(result, kind, languages)
    cells = " | ".join(f"{value:.1f}" for value in values)
    return f"| {name} | {cells} | {sum(values) / len(values):.1f} |"


def table(results: dict[str, dict[str, float]]) -> str:
    parts = [
        ("tatoeba", TWELVE, "Tatoeba accuracy, mean of both directions, %"),
        ("tatoeba", FURTHER, "Tatoeba accuracy, further languages, %"),
        ("across", STS, "STS across (English sentence 1, foreign sentence 2), Spearman x 100"),
        ("within", [*STS, "en"], "STS within the language, Spearman x 100"),
    ]
    lines = []
    for kind, languages, title in parts:
        lines += ["", f"| {title} | {' | '.join(languages)} | mean |"]
        lines.append("|---" * (len(languages) + 2) + "|")
        lines += [row(name, result, kind, languages) for name, result in results.items()]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the corpora")
    parser.add_argument("--teacher", type=Path, required=True, help="sentence-transformers folder")
    parser.add_argument("--output", type=Path, required=True, help="folder for all results")
    parser.add_argument("--vocabulary", nargs="+", default=["mixed:65536"])
    parser.add_argument("--student", default=RECIPE.student, help="size of the student")
    parser.add_argument("--steps", type=int, default=6000, help="number of batches of 256 pairs")
    parser.add_argument("--learning-rate", type=float, help="maximum (default: that of the recipe)")
    parser.add_argument(
        "--losses",
        nargs="+",
        default=[f"{name}={weight}" for name, weight in RECIPE.loss_weights.items()],
        metavar="NAME=WEIGHT",
    )
    parser.add_argument("--dims", nargs="*", type=int, metavar="WIDTH")
    parser.add_argument("--start", choices=["targets", "teacher", "random"])
    parser.add_argument("--tag", default="", help="added to the run's name")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    from kdkeras.evaluation import evaluate_all

    arguments.output.mkdir(parents=True, exist_ok=True)
    dataset = write_targets(arguments.data, arguments.teacher, arguments.output)
    results_file = arguments.output / "results.json"
    results = json.loads(results_file.read_text()) if results_file.exists() else {}
    for name in arguments.vocabulary:
        words = vocabulary(dataset, name, arguments.output)
        run = f"{name}{arguments.tag}"
        folder = arguments.output / run.replace(":", "-")
        folder.mkdir(exist_ok=True)
        figures, student = train(dataset, words, arguments, folder)
        result = evaluate_all(evaluators(arguments.data), student)
        results[run] = {**result, **figures}
        results_file.write_text(json.dumps(results, indent=1))
        print(f"{run}: {figures['seconds']} s, {figures['steps_per_second']} steps/s")
    text = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores\n"
    text += table(results) + "\n"
    (arguments.output / "table.md").write_text(text)
    print(text)


if __name__ == "__main__":
    main()
