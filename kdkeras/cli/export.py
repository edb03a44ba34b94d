"""Exports a student, and verifies every artefact in a fresh process.

With --held-out each artefact is compared with Keras on sentences of every language; a language
that fails a gate makes the command exit with status 1 and is named.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdkeras.cli.options import add_overwrite, fraction, percentage, positive_int

HELP = "export a student as SavedModel, TFLite and more, and verify it"
DEFAULT_FORMATS = ["saved_model", "saved_model_text", "tflite_float32", "tflite_int8"]
FORMATS = [
    *DEFAULT_FORMATS,
    *("mediapipe", "mediapipe_float32", "onnx", "sentence_transformers"),
]


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
        default=DEFAULT_FORMATS,
        metavar="FORMAT",
        help="saved_model (token ids), saved_model_text (strings), tflite_float32, tflite_int8 "
        "(these four if left out); mediapipe (int8), mediapipe_float32, onnx, "
        "sentence_transformers, which run with the extras of these names",
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
    }
    if pairs is not None:
        gates = exporting.Gates(
            int8_cosine_mean=arguments.int8_cosine_mean,
            int8_accuracy_change_points=-arguments.int8_accuracy_loss,
        )
        result["parity"] = exporting.verify(
            arguments.output, student, pairs, gates=gates, progress=say
        )
    return result


def show(result: dict[str, Any]) -> Iterator[Any]:
    """Yields a table of the artefacts, or their paths if they were not verified."""
    if "parity" in result:
        from kdkeras.cli.tables import artefact_table

        yield artefact_table(result["parity"]["artefacts"])
    yield from result["artefacts"].values()
