"""Checks, without a TPU, whether the training step of a student can run on one.

The step is traced and searched for operations, types and shapes that a TPU does not support;
then XLA compiles it, and its program is searched for dimensions that are not fixed. Each finding
names the operation, its shape and the line of Python that created it. If there is a finding,
the command exits with status 1. For your own losses, use kdkeras.distribution.check_tpu() in
Python.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from kdkeras.cli.options import add_losses, loss_weights, positive_int
from kdkeras.errors import GateError, InputError
from kdkeras.recipe import Recipe

HELP = "check whether a training step can run on a TPU"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "student",
        metavar="SIZE|FILE.keras",
        help="a trained student; or static_128, static_256, tiny, mini or small, with --vocabulary "
        "and --output-dim",
    )
    parser.add_argument(
        "--vocabulary", metavar="FOLDER", help="vocabulary of a student given by its size"
    )
    parser.add_argument(
        "--output-dim",
        type=positive_int,
        metavar="N",
        help="dimensions of the teacher's embeddings, for a student given by its size",
    )
    add_losses(parser)
    parser.add_argument(
        "--optimizer", choices=["adam", "lazy_adam"], default="adam", help="optimizer"
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=Recipe.batch_size,
        metavar="PAIRS",
        help="pairs per step",
    )
    parser.add_argument(
        "--sequence-length",
        type=positive_int,
        default=64,
        metavar="TOKENS",
        help="tokens per sentence, the same in every batch",
    )
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=["float32", "bfloat16"],
        default=["float32", "bfloat16"],
        help="types of the computation to check",
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Checks the training step in each precision."""
    from kdkeras.distribution import check_tpu

    student = _student(arguments)
    length = min(arguments.sequence_length, student.sequence_length)
    spec = _batch_spec(arguments.batch_size, length, student.output_dim)
    findings = {
        precision: [
            str(found) for found in check_tpu(_distiller(student, precision, arguments), spec)
        ]
        for precision in dict.fromkeys(arguments.precision)
    }
    for precision, found in findings.items():
        if found:
            more = f" and {len(found) - 5} more" if len(found) > 5 else ""
            raise GateError(
                f"The training step cannot run on a TPU in {precision}. Received: "
                f"{'; '.join(found[:5])}{more}. Use another loss or optimizer, or train on GPUs."
            )
    return {
        "student": arguments.student,
        "passed": list(findings),
        "batch_size": arguments.batch_size,
        "sequence_length": length,
    }


def _student(arguments: argparse.Namespace) -> Any:
    from kdkeras.cli.models import load_student
    from kdkeras.data import load_vocabulary
    from kdkeras.students import build_student

    details = {"--vocabulary": arguments.vocabulary, "--output-dim": arguments.output_dim}
    if arguments.student.endswith(".keras"):
        given = [name for name, value in details.items() if value is not None]
        if given:
            raise InputError(
                f"A trained student has a vocabulary and an output dimension. Received: {given[0]} "
                f"with {arguments.student}. Omit {given[0]}."
            )
        return load_student(arguments.student)
    missing = [name for name, value in details.items() if value is None]
    if missing:
        raise InputError(
            "A student given by its size needs --vocabulary and --output-dim. Received: "
            f"{arguments.student} without {' and '.join(missing)}. Add it, or pass a .keras file."
        )
    return build_student(
        arguments.student,
        vocabulary=load_vocabulary(arguments.vocabulary),
        output_dim=arguments.output_dim,
        sequence_length=arguments.sequence_length,
    )


def _distiller(student: Any, precision: str, arguments: argparse.Namespace) -> Any:
    """Returns the Distiller that `kdkeras distill` compiles with these arguments."""
    import numpy as np

    from kdkeras.training.preparation import compiled_distiller, resolved

    dtype = precision if precision == "float32" else f"mixed_{precision}"
    student = student.clone(dtype=dtype)
    weights = loss_weights(arguments.losses)
    recipe = resolved(Recipe(loss_weights=weights, optimizer=arguments.optimizer), student)
    # The teacher's principal axes do not change the operations.
    axes = np.eye(student.output_dim, dtype="float32") if recipe.dims else None
    return compiled_distiller(student, recipe, 10_000, axes)


def _batch_spec(batch_size: int, sequence_length: int, dim: int) -> Any:
    """Returns the specification of a batch of pairs with cached embeddings, as in a training."""
    import tensorflow as tf

    tokens = tf.TensorSpec((batch_size, sequence_length), tf.int32)
    names = ("token_ids", "padding_mask")
    x = {f"{side}_{name}": tokens for side in ("source", "translation") for name in names}
    x["source_id"] = tf.TensorSpec((batch_size,), tf.int64)
    return x, {"embedding": tf.TensorSpec((batch_size, dim), tf.float32)}


def show(result: dict[str, Any]) -> Iterator[Any]:
    """Yields one line."""
    yield (
        f"The training step of {result['student']} compiles for a TPU in "
        f"{' and '.join(result['passed'])}; it was not run on one."
    )
