"""Evaluates a model: Spearman correlation on STS pairs, retrieval accuracy on translations."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdkeras.errors import InputError

HELP = "evaluate a model on similarity and translation pairs"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="student.keras, an exported folder, a released student's name, or a teacher "
        "(folder or hf://NAME)",
    )
    parser.add_argument(
        "--sts",
        nargs="+",
        default=[],
        metavar="FILE",
        help="`sentence<TAB>sentence<TAB>score` rows (.tsv, .tsv.gz); scores on any scale",
    )
    parser.add_argument(
        "--bitext",
        nargs="+",
        default=[],
        metavar="FILE",
        help="`foreign<TAB>English` rows (.tsv, .tsv.gz); mean accuracy of both directions",
    )
    parser.add_argument(
        "--index-teacher",
        metavar="TEACHER",
        help="also retrieve from an index of this teacher's English embeddings with the model's "
        "foreign queries; a folder, hf://NAME or any other model; requires --bitext",
    )


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Computes the metrics."""
    if not arguments.sts and not arguments.bitext:
        raise InputError(
            "An evaluation needs data. Received: neither --sts nor --bitext. "
            "Pass at least one file."
        )
    if arguments.index_teacher and not arguments.bitext:
        raise InputError(
            "--index-teacher requires --bitext. Received: --index-teacher without --bitext. "
            "Pass at least one file of `foreign<TAB>English` rows."
        )
    from kdkeras import evaluation
    from kdkeras.cli.models import load_encoder

    evaluators: list[evaluation.Evaluator] = [
        *(evaluation.EmbeddingSimilarityEvaluator.from_tsv(path) for path in arguments.sts),
        *(evaluation.TranslationEvaluator.from_tsv(path) for path in arguments.bitext),
    ]
    if arguments.index_teacher:
        teacher = load_encoder(arguments.index_teacher)
        evaluators += [
            evaluation.AsymmetricRetrievalEvaluator.from_tsv(path, teacher)
            for path in arguments.bitext
        ]
    encoder = load_encoder(arguments.model)
    return {
        "model": arguments.model,
        "files": [str(Path(path)) for path in (*arguments.sts, *arguments.bitext)],
        "metrics": evaluation.evaluate_all(evaluators, encoder),
    }


def show(result: dict[str, Any]) -> Iterator[Any]:
    """Yields a table of the metrics."""
    from kdkeras.cli.tables import table

    rows = [[name, f"{100 * value:.1f}"] for name, value in result["metrics"].items()]
    yield table([result["model"], "%"], rows)
