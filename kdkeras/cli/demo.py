"""Runs the whole job offline on a bundled sample: train, evaluate, export, verify, report.

The sample contains real Tatoeba sentences with embeddings of all-MiniLM-L6-v2. Everything is
written to the output folder. The folder of an earlier demo is replaced; other folders are refused.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdkeras.cli.options import add_seed, positive_int
from kdkeras.recipe import Recipe

HELP = "run the whole job on a bundled sample, offline, in a few minutes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("demo-output"),
        metavar="FOLDER",
        help="folder of the artifacts and the report",
    )
    parser.add_argument(
        "--epochs",
        type=positive_int,
        default=Recipe().epochs,
        metavar="N",
        help="passes over the sample",
    )
    parser.add_argument(
        "--student", default=Recipe().student, metavar="SIZE", help="size of the student"
    )
    add_seed(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Runs the demo."""
    from kdkeras.cli.progress import say
    from kdkeras.demo import run_demo

    recipe = Recipe(student=arguments.student, epochs=arguments.epochs, seed=arguments.seed)
    return run_demo(arguments.output, recipe=recipe, say=say)


def show(result: dict[str, Any]) -> Iterator[Any]:
    """Yields accuracy by language, the artifacts, and all paths."""
    from kdkeras.cli.tables import artifact_table, table

    states = {name: (v["before"], v["after"]) for name, v in result["languages"].items()}
    means = [sum(values) / len(states) for values in zip(*states.values(), strict=True)]
    rows = [
        [name, *(f"{100 * value:.1f}" for value in values)]
        for name, values in {**states, "mean": means}.items()
    ]
    yield table(
        ["language", "before", "after"], rows, title="Translation found, % (both directions)"
    )
    yield artifact_table(result["artifacts"])
    yield from (f"{name + ':':<13}{path}" for name, path in result["paths"].items())
    seconds = result["seconds"]
    yield f"{seconds['all']:.0f} s, of which training {seconds['training']:.0f} s"
