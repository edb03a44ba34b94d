"""Exports a student, and verifies every artefact in a fresh process.

With --held-out each artefact is compared with Keras on sentences of every language; a language
that fails a gate makes the command exit with status 1 and is named.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdkeras.cli.options import add_overwrite, positive_int

HELP = "export a student as SavedModel and TFLite, and verify it"
FORMATS = ["saved_model", "saved_model_text", "tflite_float32", "tflite_int8"]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("model", metavar="FILE.keras", help="the trained student")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FOLDER", help="where the artefacts go"
    )
    parser.add_argument(
        "--format",
        nargs="+",
        dest="formats",
        choices=FORMATS,
        default=FORMATS,
        metavar="FORMAT",
        help="saved_model (token ids), saved_model_text (strings), tflite_float32, tflite_int8",
    )
    parser.add_argument(
        "--sequence-lengths",
        nargs="+",
        type=positive_int,
        default=[16, 32, 64, 128],
        metavar="TOKENS",
        help="one TFLite signature each, over the same weights",
    )
    parser.add_argument(
        "--held-out",
        type=Path,
        metavar="FOLDER",
        help="{language}.tsv files of `foreign<TAB>English` rows to verify with",
    )
    parser.add_argument("--name", metavar="NAME", help="name in export.json; the file's if left out")
    add_overwrite(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Exports and verifies."""
    from kdkeras import data
    from kdkeras import export as exporting
    from kdkeras.cli.models import load_student
    from kdkeras.files import refuse_existing

    refuse_existing(arguments.output, arguments.overwrite)
    pairs = data.read_retrieval_pairs(arguments.held_out) if arguments.held_out else None
    student = load_student(arguments.model)
    artefacts = exporting.export(
        student,
        arguments.output,
        formats=arguments.formats,
        sequence_lengths=arguments.sequence_lengths,
        overwrite=arguments.overwrite,
        name=arguments.name or Path(arguments.model).stem,
    )
    result: dict[str, Any] = {"output": str(arguments.output), "artefacts": artefacts}
    if pairs is not None:
        result["verification"] = exporting.verify(arguments.output, student, pairs)
    return result


def show(result: dict[str, Any]) -> Iterator[Any]:
    """Yields a table of the artefacts."""
    yield f"Artefacts: {result['output']}"
