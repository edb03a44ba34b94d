"""The options `--languages` and `--max-size` of `kdkeras export`: a smaller student."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdkeras.cli.options import byte_size, comma_separated
from kdkeras.errors import InputError

__all__ = ["add_size_arguments", "make_smaller"]

Pairs = dict[str, tuple[list[str], list[str]]]


def add_size_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    group = parser.add_argument_group("a smaller student")
    group.add_argument(
        "--languages",
        type=comma_separated,
        metavar="CODES",
        help="keep only the tokens of these languages and English, e.g. de,fr,ja",
    )
    group.add_argument(
        "--max-size",
        type=byte_size,
        metavar="SIZE",
        help="maximum size of the TFLite file and its sentencepiece.model or vocab.txt together, "
        "e.g. 8MB: exports only the combination of tokens, table width, embedding width, depth and "
        "TFLite format with the highest retrieval accuracy on --held-out",
    )
    group.add_argument(
        "--set",
        type=Path,
        metavar="SET",
        help="distillation set whose sentences decide which tokens a language uses (default: every "
        "second pair of --held-out decides, and accuracy is measured on the other pairs)",
    )


def make_smaller(
    arguments: argparse.Namespace, student: Any, pairs: Pairs | None
) -> tuple[Any, Pairs | None, dict[str, Any]]:
    """Makes the student smaller if the arguments request it.

    With `--max-size`, `arguments.formats` is set to the chosen format.

    Returns:
        The student, the pairs to verify it with, and entries for the result of
        the command.
    """
    if not arguments.languages and not arguments.max_size:
        if arguments.set:
            raise InputError(
                "--set requires --languages or --max-size. Received: --set alone. Add one of them."
            )
        return student, pairs, {}
    pairs = _of_languages(arguments, pairs)
    sentences, pairs = _deciding(arguments, pairs)
    if not arguments.max_size:
        from kdkeras import compression

        smaller = compression.prune_vocabulary(student, sentences)
        sizes = {"before": student.vocabulary_size, "after": smaller.vocabulary_size}
        return smaller, pairs, {"vocabulary": sizes}
    from kdkeras import export as exporting
    from kdkeras.cli.progress import show, show_progress
    from kdkeras.cli.tables import size_table

    with show_progress() as progress:
        found = exporting.fit_size(
            student,
            arguments.max_size,
            pairs or {},
            sentences,
            prune=bool(arguments.languages),
            formats=[exporting.ExportFormat(name) for name in arguments.formats],
            sequence_lengths=arguments.sequence_lengths,
            progress=progress,
        )
    show(size_table(found.record))
    arguments.formats = [found.format]
    return found.student, pairs, {"sizes": found.record}


def _of_languages(arguments: argparse.Namespace, pairs: Pairs | None) -> Pairs | None:
    """Returns the held-out pairs of the requested languages."""
    if arguments.max_size and pairs is None:
        raise InputError(
            "--max-size requires --held-out. Received: --max-size without --held-out. "
            "Pass a folder of {language}.tsv files, on which accuracy is measured."
        )
    if pairs is None or not arguments.languages:
        return pairs
    unknown = [code for code in arguments.languages if code not in pairs]
    if unknown:
        raise InputError(
            f"--languages must have held-out pairs: {', '.join(sorted(pairs))}. "
            f"Received: {', '.join(unknown)}. Omit them (English is always kept), or add their "
            "pairs."
        )
    return {code: sides for code, sides in pairs.items() if code in arguments.languages}


def _deciding(
    arguments: argparse.Namespace, pairs: Pairs | None
) -> tuple[Iterator[str], Pairs | None]:
    """Returns the sentences that decide which tokens are kept, and the pairs for accuracy."""
    from kdkeras.cli.progress import say
    from kdkeras.data import DistillationSet

    if arguments.set:
        # Small languages get a larger weight, or their tokens would be removed first.
        sentences = DistillationSet(arguments.set).sentences(
            language_temperature=0.5, languages=arguments.languages or (pairs and list(pairs))
        )
        return sentences, pairs
    if pairs is None:
        raise InputError(
            "--languages requires sentences: --set or --held-out. Received: --languages with "
            "neither. Pass the student's distillation set with --set."
        )
    few = [code for code, (foreign, _) in pairs.items() if len(foreign) < 2]
    if few:
        raise InputError(
            "Without --set, every language must have at least 2 held-out pairs. Received: fewer "
            f"than 2 pairs of {', '.join(few)}. Pass --set, or add pairs."
        )
    say("Every second held-out pair decides which tokens are kept; the others measure accuracy.")
    deciding = (text for sides in pairs.values() for side in sides for text in side[::2])
    measuring = {code: (foreign[1::2], english[1::2]) for code, (foreign, english) in pairs.items()}
    return deciding, measuring
