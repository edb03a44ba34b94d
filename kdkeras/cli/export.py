"""Exports a student, and verifies every artefact in a fresh process.

With --held-out each artefact is compared with Keras on sentences of every language; a language
that fails a gate makes the command exit with status 1 and is named.
With --languages and --max-size a smaller student is made first, and reported in report.html.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdkeras.cli.options import add_overwrite, fraction, percentage, positive_int
from kdkeras.cli.smaller import add_size_arguments, make_smaller

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
        metavar="TOKENS",
        help="one TFLite signature each, over the same weights; 16, 32, 64 and 128 as far as "
        "the student reads if left out",
    )
    parser.add_argument(
        "--held-out",
        type=Path,
        metavar="FOLDER",
        help="{language}.tsv files of `foreign<TAB>English` rows to verify with",
    )
    parser.add_argument(
        "--int8-cosine-mean",
        type=fraction,
        default=0.99,
        metavar="COSINE",
        help="gate: least mean cosine between int8 and Keras in every language",
    )
    parser.add_argument(
        "--int8-accuracy-loss",
        type=percentage,
        default=1.0,
        metavar="POINTS",
        help="gate: most retrieval accuracy that int8 may lose in a language, percentage points",
    )
    parser.add_argument(
        "--name", metavar="NAME", help="name in export.json; the file's if left out"
    )
    add_size_arguments(parser)
    add_overwrite(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Exports and verifies."""
    from kdkeras import data
    from kdkeras import export as exporting
    from kdkeras.cli.models import load_student
    from kdkeras.cli.progress import say
    from kdkeras.files import refuse_existing

    refuse_existing(arguments.output, arguments.overwrite)
    pairs = data.read_retrieval_pairs(arguments.held_out) if arguments.held_out else None
    student = load_student(arguments.model)
    student, pairs, smaller = make_smaller(arguments, student, pairs)
    artefacts = exporting.export(
        student,
        arguments.output,
        formats=arguments.formats,
        sequence_lengths=arguments.sequence_lengths,
        overwrite=arguments.overwrite,
        name=arguments.name or Path(arguments.model).stem,
        progress=say,
    )
    result: dict[str, Any] = {
        "output": str(arguments.output),
        "artefacts": {str(name): str(artefacts.path(name)) for name in artefacts.formats},
        **smaller,
    }
    if pairs is not None:
        gates = exporting.Gates(
            int8_cosine_mean=arguments.int8_cosine_mean,
            int8_accuracy_change_points=-arguments.int8_accuracy_loss,
        )
        parity = exporting.verify(
            arguments.output, student, pairs, gates=gates, enforce=False, progress=say
        )
        if "sizes" in smaller:
            title = arguments.name or Path(arguments.model).stem
            exporting.write_report(
                arguments.output, title=title, parity=parity, sizes=smaller["sizes"]
            )
        exporting.check_gates(parity)
        result["parity"] = parity
    return result


def show(result: dict[str, Any]) -> Iterator[Any]:
    """Yields a table of the artefacts, or their paths if they were not verified."""
    if "parity" in result:
        from kdkeras.cli.tables import artefact_table

        yield artefact_table(result["parity"]["artefacts"])
    yield from result["artefacts"].values()
