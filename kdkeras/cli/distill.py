"""Trains a student from a distillation set, with model.fit.

While it trains, a backup is kept beside the output (OUTPUT without .keras, plus .backup):
after a crash the same command with --resume goes on from it. Ctrl-C saves the student as
trained so far and keeps the backup. SIGTERM (a machine that is taken away) writes the
backup at the running step and ends with status 0.
With --strategy multi_worker the first machine writes, and all must see what it writes.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdkeras.cli.options import (
    add_overwrite,
    add_seed,
    fraction,
    non_negative_int,
    positive_float,
    positive_int,
    scheme_and_start,
    weight,
)
from kdkeras.config import BATCH_SIZE, DIMS, LANGUAGE_TEMPERATURE, LEARNING_RATE, LOSS_WEIGHTS

HELP = "train a student from a distillation set"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("set", metavar="SET", help="distillation set, from `kdkeras targets`")
    parser.add_argument(
        "--vocabulary",
        required=True,
        metavar="FOLDER",
        help="the student's vocabulary, from `kdkeras vocabulary`",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE.keras", help="the trained student"
    )
    _add_student(parser)
    _add_training(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the backup of an interrupted run with the same settings, if there is one",
    )
    add_seed(parser)
    add_overwrite(parser)


def _add_student(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("student")
    group.add_argument(
        "--student",
        default="static_256",
        metavar="PRESET|FILE.keras",
        help="static_128, static_256 (tables of subword vectors), tiny, mini or small "
        "(transformers); or a trained student that goes on, e.g. from `kdkeras grow`",
    )
    group.add_argument(
        "--sequence-length",
        type=positive_int,
        default=64,
        metavar="TOKENS",
        help="tokens read of a sentence; the rest is cut off",
    )
    group.add_argument(
        "--table-rank",
        type=positive_int,
        metavar="N",
        help="columns of the stored token table, below the preset's width: a smaller file",
    )
    start = group.add_mutually_exclusive_group()
    start.add_argument(
        "--start",
        choices=["targets", "random"],
        help="targets: begin at the least squares fit to the cached vectors (static students, "
        "their default); random: the default of transformers",
    )
    start.add_argument(
        "--init-from-teacher",
        metavar="FOLDER|hf://NAME",
        help="start from this teacher's subword vectors for the tokens that both know",
    )


def _add_training(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("training")
    length = group.add_mutually_exclusive_group()
    length.add_argument(
        "--epochs", type=positive_int, default=3, metavar="N", help="passes over all pairs"
    )
    length.add_argument(
        "--steps", type=positive_int, metavar="N", help="batches in all, instead of --epochs"
    )
    group.add_argument(
        "--batch-size", type=positive_int, default=BATCH_SIZE, metavar="PAIRS", help="pairs a step"
    )
    group.add_argument(
        "--learning-rate",
        type=positive_float,
        default=LEARNING_RATE,
        metavar="RATE",
        help="highest rate of Adam, then a cosine to 0; a transformer wants about 5e-4",
    )
    group.add_argument(
        "--optimizer",
        choices=["adam", "lazy_adam"],
        default="adam",
        help="lazy_adam updates only the table's rows that are in the batch: another update than "
        "Adam's, and much faster for tables of 100,000 rows and more",
    )
    group.add_argument(
        "--warmup",
        type=non_negative_int,
        default=200,
        metavar="STEPS",
        help="steps up to the highest rate, at most a tenth of all",
    )
    group.add_argument(
        "--losses",
        nargs="+",
        type=weight,
        default=[f"{name}={value:g}" for name, value in LOSS_WEIGHTS.items()],
        metavar="NAME=WEIGHT",
        help="losses and their weights: embedding, similarity, ranking",
    )
    group.add_argument(
        "--dims",
        nargs="*",
        type=positive_int,
        metavar="WIDTH",
        help="narrower widths whose place counts in the training as well (Matryoshka, in the "
        f"teacher's principal axes); {' '.join(map(str, DIMS))} as far as the teacher is wider if "
        "left out, none if nothing follows",
    )
    group.add_argument(
        "--keep-axes",
        action="store_true",
        help="leave the student in the teacher's principal axes, so that its embeddings can be cut "
        "to the first components; otherwise it is turned back, to be compared with the teacher",
    )
    group.add_argument(
        "--decay",
        nargs="+",
        type=weight,
        default=[],
        metavar="NAME=FRACTION",
        help="losses whose weight falls linearly to 0 within this fraction of all steps",
    )
    group.add_argument(
        "--language-temperature",
        type=fraction,
        default=LANGUAGE_TEMPERATURE,
        metavar="ALPHA",
        help="languages are drawn in proportion to pairs^ALPHA: 1 as they come, 0 all alike",
    )
    group.add_argument(
        "--quantization-aware-training",
        type=scheme_and_start,
        metavar="int4|int8[:FRACTION]",
        help="train the last part, from this fraction of all steps on (0.7 if left out), with the "
        "token table and the dense layers rounded as in the exported file of that format",
    )
    group.add_argument(
        "--mixed-precision",
        choices=["bfloat16", "float16"],
        help="type of the computation; weights and the saved student stay float32",
    )
    group.add_argument(
        "--jit",
        action="store_true",
        help="compile the training step with XLA; on a CPU seldom faster",
    )
    group.add_argument(
        "--strategy",
        choices=["none", "mirrored", "multi_worker", "tpu"],
        default="none",
        help="devices to train on together; --batch-size is that of all of them. multi_worker: the "
        "same command on every machine that the environment variable TF_CONFIG names, the files "
        "in folders that all see",
    )
    group.add_argument(
        "--replicas",
        type=positive_int,
        metavar="N",
        help="devices of --strategy mirrored, all GPUs if left out; without a GPU, virtual CPUs",
    )
    group.add_argument(
        "--checkpoint-every",
        type=positive_int,
        metavar="STEPS",
        help="steps between backups and lines of the history; one pass if left out",
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains and saves the student."""
    from kdkeras.cli.training import train

    arguments.losses = dict(
        weight(item) if isinstance(item, str) else item for item in arguments.losses
    )
    arguments.decay = dict(arguments.decay)
    return train(arguments)


def show(result: dict[str, Any]) -> Iterator[Any]:
    """Yields the losses, and where the student is."""
    from kdkeras.cli.tables import table

    if "stopped_at" in result:
        yield (
            f"Told to stop (SIGTERM) at step {result['stopped_at']:,} of {result['steps']:,}; the "
            f"backup is in {result['backup']}. The same command with --resume goes on from it."
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
