"""Trains a student on a distillation set.

The defaults are the default recipe. The recipe that was used is written next to the output
(OUTPUT without .keras, plus .recipe.json) and can be used again with --recipe.
During training a backup is kept next to the output (.backup): after a crash, the same command
with --resume continues. Ctrl-C saves the student as trained so far and keeps the backup. After
SIGTERM (preemption), the command writes the backup at the current step and exits with status 0.
With --strategy multi_worker the first machine writes all files, which all machines must see.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdkeras.cli.options import (
    add_overwrite,
    fraction,
    non_negative_int,
    positive_float,
    positive_int,
    scheme_and_start,
    weight,
)
from kdkeras.errors import InputError
from kdkeras.recipe import Recipe

HELP = "train a student on a distillation set"
DEFAULTS = Recipe()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("set", metavar="SET", help="distillation set, from `kdkeras targets`")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE.keras", help="the trained student"
    )
    parser.add_argument(
        "--vocabulary",
        metavar="FOLDER",
        help="the student's vocabulary, from `kdkeras vocabulary`; trained on the set "
        f"({DEFAULTS.vocabulary_kind}, {DEFAULTS.vocabulary_size:,} tokens) if omitted",
    )
    parser.add_argument(
        "--recipe",
        metavar="FILE.json",
        help="recipe that replaces the defaults; options given here override it",
    )
    _add_student(parser)
    _add_training(parser)
    _add_devices(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the backup of an interrupted run with the same settings, if any",
    )
    add_overwrite(parser)


def _option(group: Any, flag: str, default: Any, help: str, **arguments: Any) -> None:
    """Adds an option of the recipe; it is absent unless given."""
    shown = f"{help} (default: {default})" if default is not None else help
    group.add_argument(flag, default=argparse.SUPPRESS, help=shown, **arguments)


def _add_student(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("student")
    _option(
        group,
        "--student",
        DEFAULTS.student,
        "static_128, static_256 (tables of subword vectors), tiny, mini or small (transformers); "
        "or a trained student to continue with, e.g. from `kdkeras grow`",
        metavar="SIZE|FILE.keras",
    )
    _option(
        group,
        "--sequence-length",
        DEFAULTS.sequence_length,
        "maximum number of tokens per sentence; the rest is truncated",
        type=positive_int,
        metavar="TOKENS",
    )
    _option(
        group,
        "--table-rank",
        None,
        "columns of the stored token table, below the width of the size: a smaller file",
        type=positive_int,
        metavar="N",
    )
    start = group.add_mutually_exclusive_group()
    _option(
        start,
        "--start",
        None,
        "targets: start from the least squares fit to the cached embeddings (default of static "
        "students); random: random weights (default of transformers)",
        choices=["targets", "random"],
    )
    start.add_argument(
        "--init-from-teacher",
        metavar="FOLDER|hf://NAME",
        help="initialize the token vectors from this teacher",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    length = group.add_mutually_exclusive_group()
    _option(
        length,
        "--epochs",
        DEFAULTS.epochs,
        "passes over all pairs",
        type=positive_int,
        metavar="N",
    )
    _option(
        length,
        "--steps",
        None,
        "number of batches, instead of --epochs",
        type=positive_int,
        metavar="N",
    )
    _option(
        group,
        "--batch-size",
        DEFAULTS.batch_size,
        "pairs per step",
        type=positive_int,
        metavar="PAIRS",
    )
    _option(
        group,
        "--learning-rate",
        "4e-3 for static students, 5e-4 for transformers",
        "maximum learning rate, followed by a cosine decay to 0",
        type=positive_float,
        metavar="RATE",
    )
    _option(
        group,
        "--optimizer",
        DEFAULTS.optimizer,
        "lazy_adam updates only the table's rows that occur in the batch: not the same update as "
        "Adam's, and much faster for tables of 100,000 rows and more",
        choices=["adam", "lazy_adam"],
    )
    _option(
        group,
        "--warmup",
        DEFAULTS.warmup,
        "steps up to the maximum rate; at most a tenth of all steps is used",
        type=non_negative_int,
        metavar="STEPS",
    )
    _option(
        group,
        "--losses",
        " ".join(f"{name}={value:g}" for name, value in DEFAULTS.loss_weights.items()),
        "losses and their weights: embedding, similarity, ranking",
        nargs="+",
        type=weight,
        metavar="NAME=WEIGHT",
    )
    _option(
        group,
        "--decay",
        None,
        "losses whose weight falls linearly to 0 within this fraction of all steps",
        nargs="+",
        type=weight,
        metavar="NAME=FRACTION",
    )
    _option(
        group,
        "--dims",
        "those of 256 128 64 32 below the width of the embedding",
        "narrower widths that are trained too (Matryoshka); no value disables them",
        nargs="*",
        type=positive_int,
        metavar="WIDTH",
    )
    _option(
        group,
        "--keep-axes",
        None,
        "rotate the trained student to the teacher's principal axes, so that its embeddings can be "
        "truncated; otherwise it can be compared with the teacher",
        action="store_true",
    )
    _option(
        group,
        "--language-temperature",
        DEFAULTS.language_temperature,
        "languages are drawn in proportion to pairs^ALPHA: 1 keeps their shares, 0 draws all "
        "equally often",
        type=fraction,
        metavar="ALPHA",
    )
    _option(
        group,
        "--quantization-aware-training",
        None,
        "train the last part, from this fraction of all steps on (0.7 if omitted), with the token "
        "table and the dense layers rounded as in the exported file of that format",
        type=scheme_and_start,
        metavar="int4|int8[:FRACTION]",
    )
    _option(
        group,
        "--mixed-precision",
        None,
        "type of the computation; weights and the saved student stay float32",
        choices=["bfloat16", "float16"],
    )
    _option(
        group,
        "--jit",
        None,
        "compile the training step with XLA; on a CPU rarely faster",
        action="store_true",
    )
    _option(
        group,
        "--seed",
        DEFAULTS.seed,
        "seed of weights, data order and sampling; equal seeds give equal results",
        type=non_negative_int,
        metavar="N",
    )


def _add_devices(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("devices and backups")
    group.add_argument(
        "--strategy",
        choices=["none", "mirrored", "multi_worker", "tpu"],
        default="none",
        help="devices to train on together; --batch-size counts the pairs of all of them. "
        "multi_worker: the same command on every machine in the environment variable TF_CONFIG, "
        "with the files in folders that all machines see",
    )
    group.add_argument(
        "--replicas",
        type=positive_int,
        metavar="N",
        help="devices of --strategy mirrored, all GPUs if omitted; without a GPU, virtual CPUs",
    )
    group.add_argument(
        "--checkpoint-every",
        type=positive_int,
        metavar="STEPS",
        help="steps between backups and entries of the history; one pass if omitted",
    )


def recipe_of(arguments: argparse.Namespace) -> Recipe:
    """Returns the recipe: the default or the given file, changed by the options.

    Raises:
        InputError: If a value is out of its range, or the file is not a recipe.
    """
    given = vars(arguments)
    recipe = Recipe.load(given["recipe"]) if given.get("recipe") else DEFAULTS
    values = recipe.to_dict()
    values.update({name: value for name, value in given.items() if name in values})
    for name, option in (("loss_weights", "losses"), ("decay", "decay")):
        if option in given:
            values[name] = dict(given[option])
    if "losses" in given and "decay" not in given:
        kept = values["decay"].items()
        values["decay"] = {name: x for name, x in kept if name in values["loss_weights"]}
    if "steps" not in given and "epochs" in given:
        values["steps"] = None
    if "jit" in given:
        values["jit_compile"] = True
    if "quantization_aware_training" in given:
        values["quantization"], values["quantization_start"] = given["quantization_aware_training"]
    if given.get("init_from_teacher"):
        values["start"] = "teacher"
    if str(values["student"]).endswith(".keras"):
        _refuse_start(given)
        values.update(student=None, start=None, table_rank=None)
    return Recipe.from_dict(values)


def _refuse_start(given: dict[str, Any]) -> None:
    for name in ("start", "init_from_teacher", "table_rank"):
        if given.get(name) is not None:
            raise InputError(
                "A trained student has its own table and weights. Received: "
                f"--{name.replace('_', '-')} and --student {given['student']}. Omit one of them."
            )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains and saves the student.

    Returns:
        Paths, first and last losses, number of steps and parameters, seconds; after
        SIGTERM the step at which it stopped, and the backup.
    """
    recipe = recipe_of(arguments)
    if recipe.start == "teacher" and not arguments.init_from_teacher:
        raise InputError(
            f"A start from a teacher needs the teacher. Received: start='teacher' in "
            f"{arguments.recipe}. Pass --init-from-teacher."
        )

    from kdkeras import teachers, training
    from kdkeras.cli.models import load_student
    from kdkeras.cli.progress import show_progress
    from kdkeras.distribution import choose_strategy

    # First: virtual CPUs can only be made before TensorFlow runs anything.
    strategy = choose_strategy(arguments.strategy, arguments.replicas)
    name = getattr(arguments, "student", "")
    trained = load_student(name) if name.endswith(".keras") else None
    with show_progress() as progress:
        result = training.train(
            trained or recipe.student,
            arguments.set,
            recipe=recipe,
            vocabulary=arguments.vocabulary,
            teacher=teachers.load(arguments.init_from_teacher)
            if arguments.init_from_teacher
            else None,
            output=arguments.output,
            backup=arguments.output.with_suffix(".backup"),
            resume=arguments.resume,
            overwrite=arguments.overwrite,
            strategy=strategy,
            steps_per_epoch=arguments.checkpoint_every,
            progress=progress,
        )
    if result.stopped_at is not None:
        backup = str(arguments.output.with_suffix(".backup"))
        return {"stopped_at": result.stopped_at, "steps": result.steps, "backup": backup}
    return {
        "output": str(arguments.output),
        "recipe": str(arguments.output.with_suffix(".recipe.json")),
        "history": str(arguments.output.with_suffix(".history.json")),
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "parameters": result.student.count_params(),
        "first": result.history[0],
        "last": result.history[-1],
    }


def show(result: dict[str, Any]) -> Iterator[Any]:
    """Yields the losses, and where the student is."""
    from kdkeras.cli.tables import table

    if "stopped_at" in result:
        yield (
            f"Stopped by SIGTERM at step {result['stopped_at']:,} of {result['steps']:,}; the "
            f"backup is in {result['backup']}. The same command with --resume continues."
        )
        return
    first, last = result["first"], result["last"]
    rows = [[name, _figure(first[name]), _figure(last[name])] for name in last]
    yield table(["loss", "first", "last"], rows)
    yield (
        f"{result['steps']:,} steps in {result['seconds']:.0f} s, {result['parameters']:,} "
        f"parameters: {result['output']} (losses: {result['history']})"
    )


def _figure(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:.4f}"
