r"""Grows a static multilingual student to a Transformer and continues its training.

    python benchmarks/growth/multilingual.py --data DATA --teacher FOLDER --set SET \
        --start-table START.keras --output RUNS/multilingual

DATA is the folder described in `benchmarks/ablation.py`, SET is a folder from `kdkeras targets`,
and START is a static student at the least squares fit to SET, such as the one in the output folder
of `ablation.py`. START is first trained for --static-steps. The same Transformer then starts from
this static student (*grown*, function preserved), from evenly spaced layers of the teacher and its
token vectors (*layer drop*), and from random weights. All are trained in the same way, so equal
numbers of steps cost equal FLOPs. The results of each run are written to OUTPUT/results.json when
the run ends, and completed runs are not repeated. OUTPUT/table.md and OUTPUT/accuracy.png show all
runs.
"""

from __future__ import annotations

import argparse
import gc
import sys
from pathlib import Path
from typing import Any

import numpy as np
from costs import training
from multilingual_tables import (
    BLOCKS,
    DROP,
    GROWN,
    ON,
    PUD,
    RANDOM,
    STARTS,
    STATIC,
    means,
    plot,
    table,
)
from results import Results, write

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from ablation import CachedEncoder, pud_evaluators  # noqa: E402
from static_student import TWELVE, evaluators  # noqa: E402

SIZES = {"hidden_dim": 384, "num_heads": 12, "intermediate_dim": 1536}
"""The sizes of the teacher, so that its layers can be copied."""
LENGTH, BATCH = 16, 128
PRECISION = "mixed_bfloat16"
RATES = {ON: 2e-3, GROWN: 5e-5, BLOCKS: 5e-4, DROP: 5e-4, RANDOM: 5e-4}
"""Maximum learning rate by start."""
STATIC_BATCH = 256
RETRIEVAL_ROWS, SIMILARITY_ROWS = 150, 200
WARMUP = 20
PROBE = 256


def reduced(data: Path) -> list[Any]:
    """Returns evaluators of the first rows only: evaluation takes longer than training."""
    from kdkeras.evaluation import EmbeddingSimilarityEvaluator, TranslationEvaluator

    kept = {f"tatoeba_{x}" for x in TWELVE} | {f"pud_{x}" for x in PUD}
    found: list[Any] = []
    for one in evaluators(data) + pud_evaluators(data):
        if one.name in kept:
            n = RETRIEVAL_ROWS
            found.append(TranslationEvaluator(one.name, one.foreign[:n], one.english[:n]))
        elif one.name.startswith("across_"):
            n = SIMILARITY_ROWS
            found.append(
                EmbeddingSimilarityEvaluator(
                    one.name, one.sentences1[:n], one.sentences2[:n], one.scores[:n]
                )
            )
    return found


def started(start: str, layers: int, static: Any, arguments: Any, probe: list[str]) -> Any:
    """Returns the student at one of its starts."""
    from kdkeras import students, teachers
    from kdkeras.growth import GrowthPlan, grow

    if start == ON:
        return static.clone()
    if start in (GROWN, BLOCKS):
        grown = grow(static, GrowthPlan(sizes={**SIZES, "num_layers": layers}), probe=probe)
        return grown if start == GROWN else with_random_layers(grown)
    student = students.TransformerStudent(
        static.vocabulary_size,
        static.output_dim,
        num_layers=layers,
        **SIZES,
        token_weights=True,
        normalize=static.normalize,
        sequence_length=static.sequence_length,
        vocabulary=static.vocabulary,
    )
    if start == DROP:
        print(students.initialize_from_teacher(student, teachers.load(arguments.teacher)))
        # The output of the layers is already in the teacher's space.
        width = SIZES["hidden_dim"]
        student.projection.set_weights([np.eye(width), np.zeros(width)])
    return student


def with_random_layers(student: Any) -> Any:
    """Replaces the layers of a student by randomly initialized ones."""
    fresh = student.clone(copy_weights=False)
    for block, drawn in zip(student.blocks, fresh.blocks, strict=True):
        block.set_weights(drawn.get_weights())
    return student


def train(
    student: Any,
    dataset: Any,
    found: list[Any],
    seed: int,
    rate: float,
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    """Trains the student; returns the figures and the cost at each budget."""
    import keras

    from kdkeras.evaluation import evaluate_all
    from kdkeras.recipe import Recipe
    from kdkeras.students import forward_flops
    from kdkeras.training.preparation import compiled_distiller

    # No dropout, because no pair is used twice. The evaluated copy computes in float32.
    settings = {"dropout": 0.0} if hasattr(student, "dropout") else {}
    trained = student.clone(dtype=PRECISION, **settings)
    recipe = Recipe(optimizer="lazy_adam", learning_rate=rate, warmup=WARMUP, dims=())
    distiller = compiled_distiller(trained, recipe, arguments.steps)
    batches = dataset.batches(
        BATCH,
        student.vocabulary,
        sequence_length=LENGTH,
        bucket_boundaries=[LENGTH],
        seed=seed,
    )
    every = arguments.steps // arguments.budgets
    points: list[dict[str, Any]] = []

    def measure(epoch: int, logs: Any = None) -> None:
        steps = (epoch + 1) * every
        student.set_weights(trained.get_weights())
        flops = training(forward_flops(student, LENGTH), 2 * BATCH, steps)
        figures = evaluate_all(found, CachedEncoder(student))
        points.append({"steps": steps, "flops": flops, **figures})
        print(steps, {k: round(v, 2) for k, v in means(figures).items()}, logs, flush=True)

    distiller.fit(
        batches.repeat(),
        epochs=arguments.budgets,
        steps_per_epoch=every,
        verbose=0,
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=measure)],
    )
    return {"points": points}


def trained_static(arguments: argparse.Namespace, dataset: Any) -> Any:
    """Returns the trained static student, from its file if it exists."""
    import kdkeras
    from kdkeras.recipe import Recipe
    from kdkeras.training.preparation import compiled_distiller, resolved

    path = arguments.output / f"static-{arguments.static_steps}.keras"
    if path.exists():
        return kdkeras.load(path)
    static = kdkeras.load(arguments.start_table)
    if arguments.static_steps:
        recipe = resolved(Recipe(dims=()), static)
        distiller = compiled_distiller(static, recipe, arguments.static_steps)
        batches = dataset.batches(STATIC_BATCH, static.vocabulary, sequence_length=LENGTH)
        distiller.fit(batches.repeat(), steps_per_epoch=arguments.static_steps, verbose=2)
    part = path.with_stem(path.stem + "-part")
    static.save(part)
    part.replace(path)
    return static


def static_figures(static: Any, found: list[Any], steps: int) -> dict[str, Any]:
    from kdkeras.evaluation import evaluate_all
    from kdkeras.students import forward_flops

    flops = training(forward_flops(static, LENGTH), 2 * STATIC_BATCH, steps)
    figures = evaluate_all(found, static)
    return {"start": STATIC, "points": [{"steps": steps, "flops": flops, **figures}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the corpora")
    parser.add_argument("--teacher", type=Path, required=True, help="sentence-transformers folder")
    parser.add_argument("--set", type=Path, required=True, help="distillation set")
    parser.add_argument("--start-table", type=Path, required=True, help="static student")
    parser.add_argument(
        "--static-steps", type=int, default=0, help="number of batches of 256 pairs"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for all results")
    parser.add_argument("--layers", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--starts", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--budgets", type=int, default=2, help="number of measurements per run")
    arguments = parser.parse_args()
    import keras

    from kdkeras.data import DistillationSet

    arguments.output.mkdir(parents=True, exist_ok=True)
    results = Results(arguments.output / "results.json")
    dataset, found = DistillationSet(arguments.set), reduced(arguments.data)
    static = trained_static(arguments, dataset)
    if STATIC not in results:
        results.add(STATIC, static_figures(static, found, arguments.static_steps))
    print(means(results[STATIC]["points"][0]), flush=True)
    probe = list(dict.fromkeys(s for e in found for s in getattr(e, "foreign", [])))[:PROBE]
    for seed in arguments.seeds:
        cases = [(0, ON)] if ON in arguments.starts else []
        cases += [(n, start) for n in arguments.layers for start in arguments.starts if start != ON]
        for layers, start in cases:
            key = f"{start}/{layers}/{arguments.steps}/{RATES[start]:g}/{seed}"
            if key in results:
                continue
            print(key, flush=True)
            keras.utils.set_random_seed(seed)
            student = started(start, layers, static, arguments, probe)
            figures = train(student, dataset, found, seed, RATES[start], arguments)
            run = {"start": start, "layers": layers, "seed": seed, "rate": RATES[start]}
            if start == GROWN:
                run["certificate"] = student.certificate.to_dict()
            results.add(key, {**run, **figures})
            del student
            gc.collect()
    runs = list(results.values())
    write(arguments.output / "table.md", table(runs))
    plot(runs, arguments.output / "accuracy.png")
    print(table(runs))


if __name__ == "__main__":
    main()
