"""Checks, without a TPU, whether the training step of what ships could run on one.

Every student, loss and optimizer path is traced and looked through for operations, types and
shapes that a TPU has not; then XLA compiles it, and its program is looked through for
dimensions that are not fixed. A finding names the operation, its shape and the line it comes
from, and the command ends with status 1. Your own losses: kdkeras.distribution.check_tpu().
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from kdkeras.cli.options import positive_int
from kdkeras.config import BATCH_SIZE

HELP = "check that training steps could run on a TPU"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "--precision",
        nargs="+",
        choices=["float32", "bfloat16"],
        default=["float32", "bfloat16"],
        help="types of the computation",
    )
    parser.add_argument(
        "--batch-size", type=positive_int, default=BATCH_SIZE, metavar="PAIRS", help="pairs a step"
    )
    parser.add_argument(
        "--sequence-length",
        type=positive_int,
        default=32,
        metavar="TOKENS",
        help="tokens of a sentence, the same in every batch",
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="check only what has this text in its name"
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Checks every case."""
    import keras

    from kdkeras import data
    from kdkeras.cli.progress import bar
    from kdkeras.distribution import check_tpu
    from kdkeras.distribution.tpu_cases import batch_spec, shipped_cases
    from kdkeras.errors import GateError, InputError

    vocabulary = data.load_vocabulary(data.sample_folder() / "vocabulary")
    spec = batch_spec(arguments.batch_size, arguments.sequence_length)
    cases = [
        (f"{name}, {precision}", build)
        for precision in arguments.precision
        for name, build in shipped_cases(vocabulary, precision, arguments.sequence_length)
        if arguments.only in name
    ]
    if not cases:
        raise InputError(
            f"`--only` must be in a case's name. Received: {arguments.only}. Leave it out."
        )
    findings: dict[str, list[str]] = {}
    with bar("Compiling", "steps") as move:
        for number, (name, build) in enumerate(cases, 1):
            findings[name] = [str(finding) for finding in check_tpu(build(), spec)]
            keras.backend.clear_session()
            move(number, len(cases))
    failed = {name: found for name, found in findings.items() if found}
    if failed:
        name, found = next(iter(failed.items()))
        raise GateError(
            f"A training step must run on a TPU. Received: {len(failed)} of {len(cases)} that "
            f"cannot, among them {name!r}: {'; '.join(found[:5])}."
        )
    return {"passed": list(findings), "batch_size": arguments.batch_size}


def show(result: dict[str, Any]) -> Iterator[Any]:
    """Yields what passed."""
    yield "\n".join(f"passed: {name}" for name in result["passed"])
    count = len(result["passed"])
    yield f"{count} training steps compile with nothing that a TPU lacks; none was run on one."
