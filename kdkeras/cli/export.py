"""Exports a student and verifies every artifact in a fresh process.

With --held-out, every artifact is compared with Keras on sentences in every language. If a
language fails a gate, the command names it and exits with status 1.
With --languages and --max-size, the command first makes the student smaller and writes report.html.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdkeras.cli.options import add_overwrite, fraction, percentage, positive_int
from kdkeras.cli.smaller import add_size_arguments, make_smaller
from kdkeras.errors import InputError

if TYPE_CHECKING:
    from kdkeras.export import Gates

HELP = "export a student as SavedModel, TFLite and more, and verify it"
DEFAULT_FORMATS = ["saved_model", "saved_model_text", "tflite_float32", "tflite_int8"]
FORMATS = [
    *DEFAULT_FORMATS,
    *("tflite_float16", "tflite_int8_weight_only", "tflite_int4"),
    *("mediapipe", "mediapipe_float32", "onnx", "sentence_transformers"),
]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument("model", metavar="FILE.keras", help="the trained student")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FOLDER", help="folder for the artifacts"
    )
    parser.add_argument(
        "--format",
        nargs="+",
        dest="formats",
        choices=FORMATS,
        default=DEFAULT_FORMATS,
        metavar="FORMAT",
        help="one or more of: saved_model (token ids), saved_model_text (strings), tflite_float32, "
        "tflite_int8, tflite_float16, tflite_int8_weight_only, tflite_int4 (int4 token table; the "
        "last two need the extra quantize), mediapipe (int8), "
        "mediapipe_float32, onnx, sentence_transformers (verifying them needs the extras of these "
        "names)",
    )
    parser.add_argument(
        "--sequence-lengths",
        nargs="+",
        type=positive_int,
        metavar="TOKENS",
        help="tokens of each TFLite signature; all signatures share the weights (default: 16, 32, "
        "64 and 128, up to the student's length)",
    )
    parser.add_argument(
        "--held-out",
        type=Path,
        metavar="FOLDER",
        help="folder of {language}.tsv files with `foreign<TAB>English` rows, for the comparison "
        "with Keras",
    )
    parser.add_argument(
        "--sts",
        nargs="+",
        default=[],
        metavar="FILE",
        help="files (.tsv, .tsv.gz) of at least 100 `sentence<TAB>sentence<TAB>score` rows, to "
        "compare similarities; requires --held-out",
    )
    _add_gates(parser)
    parser.add_argument(
        "--name", metavar="NAME", help="name in export.json (default: the name of FILE.keras)"
    )
    add_size_arguments(parser)
    add_overwrite(parser)


def _add_gates(parser: argparse.ArgumentParser) -> None:
    for name, cosine, loss in (("int8", 0.99, 0.5), ("int4", 0.95, 1.5)):
        parser.add_argument(
            f"--{name}-cosine-mean",
            type=fraction,
            default=cosine,
            metavar="COSINE",
            help=f"gate: minimum mean cosine between {name} and Keras in every language",
        )
        also = " (and float16)" if name == "int8" else ""
        for option, what in (
            ("accuracy", "retrieval accuracy in a language (or 1.5 sentences, if that is more)"),
            ("spearman", "STS correlation (times 100) in a file"),
        ):
            parser.add_argument(
                f"--{name}-{option}-loss",
                type=percentage,
                default=loss,
                metavar="POINTS",
                help=f"gate: maximum loss of {what} for {name}{also}, in points",
            )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Exports and verifies."""
    if arguments.sts and not arguments.held_out:
        raise InputError(
            "--sts requires --held-out. "
            f"Received: --sts {arguments.sts[0]} without --held-out. Add --held-out FOLDER."
        )
    from kdkeras import data
    from kdkeras import export as exporting
    from kdkeras.cli.models import load_student
    from kdkeras.cli.progress import show_progress
    from kdkeras.evaluation import EmbeddingSimilarityEvaluator
    from kdkeras.export.parity import check_similarity
    from kdkeras.files import refuse_existing

    refuse_existing(arguments.output, arguments.overwrite)
    pairs = data.read_translation_pairs(arguments.held_out) if arguments.held_out else None
    similarity = [EmbeddingSimilarityEvaluator.from_tsv(path) for path in arguments.sts]
    check_similarity(similarity)  # Before the student is loaded and exported.
    student = load_student(arguments.model)
    student, pairs, smaller = make_smaller(arguments, student, pairs)
    with show_progress() as progress:
        artifacts = exporting.export_student(
            student,
            arguments.output,
            formats=arguments.formats,
            sequence_lengths=arguments.sequence_lengths,
            overwrite=arguments.overwrite,
            name=arguments.name or Path(arguments.model).stem,
            progress=progress,
        )
    result: dict[str, Any] = {
        "output": str(arguments.output),
        "artifacts": {str(name): str(artifacts.path(name)) for name in artifacts.formats},
        **smaller,
    }
    if pairs is not None:
        with show_progress() as progress:
            parity = exporting.verify(
                arguments.output,
                student,
                pairs,
                gates=_gates(arguments),
                similarity=similarity,
                enforce=False,
                progress=progress,
            )
        if "sizes" in smaller:
            title = arguments.name or Path(arguments.model).stem
            exporting.write_report(
                arguments.output, title=title, parity=parity, sizes=smaller["sizes"]
            )
        exporting.check_gates(parity)
        result["parity"] = parity
    return result


def _gates(arguments: argparse.Namespace) -> Gates:
    from kdkeras.export import Gates

    return Gates(
        **{
            f"{name}_{figure}": sign * getattr(arguments, f"{name}_{option}")
            for name in ("int8", "int4")
            for figure, option, sign in (
                ("cosine_mean", "cosine_mean", 1),
                ("accuracy_change_points", "accuracy_loss", -1),
                ("spearman_change_points", "spearman_loss", -1),
            )
        }
    )


def show(result: dict[str, Any]) -> Iterator[Any]:
    """Yields a table of the artifacts if they were verified, and their paths."""
    if "parity" in result:
        from kdkeras.cli.tables import artifact_table

        yield artifact_table(result["parity"]["artifacts"])
    yield from result["artifacts"].values()
