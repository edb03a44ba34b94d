"""What `kdkeras export --languages` and `--max-size` do before the export."""

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
        help="leave the tokens that these languages and English use, e.g. de,fr,ja",
    )
    group.add_argument(
        "--max-size",
        type=byte_size,
        metavar="SIZE",
        help="most that the TFLite file and its sentencepiece.model or vocab.txt may take "
        "together, e.g. 8MB: the best combination of tokens, table width, embedding width, depth "
        "and TFLite format, by retrieval accuracy on --held-out, is exported alone",
    )
    group.add_argument(
        "--set",
        type=Path,
        metavar="SET",
        help="distillation set whose sentences say which tokens a language uses; without it every "
        "second pair of --held-out says so, and only the others are measured",
    )


def make_smaller(
    arguments: argparse.Namespace, student: Any, pairs: Pairs | None
) -> tuple[Any, Pairs | None, dict[str, Any]]:
    """Makes the student as small as the arguments say.

    Returns:
        The student, the pairs to verify it with, and what the result tells of it;
        the formats in `arguments` become the one that was chosen.
    """
    if not arguments.languages and not arguments.max_size:
        if arguments.set:
            raise InputError(
                "A set says which tokens a language uses. Received: --set alone. "
                "Add --languages or --max-size."
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
    from kdkeras.cli.progress import say, show
    from kdkeras.cli.tables import size_table

    found = exporting.fit_size(
        student,
        arguments.max_size,
        pairs or {},
        sentences,
        prune=bool(arguments.languages),
        formats=[exporting.ExportFormat(name) for name in arguments.formats],
        sequence_lengths=arguments.sequence_lengths,
        progress=say,
    )
    show(size_table(found.record))
    arguments.formats = [found.format]
    return found.student, pairs, {"sizes": found.record}


def _of_languages(arguments: argparse.Namespace, pairs: Pairs | None) -> Pairs | None:
    """The held-out pairs of the languages asked for."""
    if arguments.max_size and pairs is None:
        raise InputError(
            "The best combination is found by measuring. Received: --max-size without --held-out. "
            "Pass a folder of {language}.tsv files."
        )
    if pairs is None or not arguments.languages:
        return pairs
    unknown = [code for code in arguments.languages if code not in pairs]
    if unknown:
        raise InputError(
            f"--languages must be of those with held-out pairs, {', '.join(sorted(pairs))}. "
            f"Received: {', '.join(unknown)}. Leave them out (English stays in any case), or add "
            "their pairs."
        )
    return {code: sides for code, sides in pairs.items() if code in arguments.languages}


def _deciding(
    arguments: argparse.Namespace, pairs: Pairs | None
) -> tuple[Iterator[str], Pairs | None]:
    """The sentences that say which tokens are used, and the pairs that measure."""
    from kdkeras.cli.progress import say
    from kdkeras.data import DistillationSet

    if arguments.set:
        # Small languages count more than their number, or their tokens would go first.
        sentences = DistillationSet(arguments.set).sentences(
            language_temperature=0.5, languages=arguments.languages or (pairs and list(pairs))
        )
        return sentences, pairs
    if pairs is None:
        raise InputError(
            "Which tokens a language uses is read from sentences. Received: --languages with "
            "neither --set nor --held-out. Pass the student's distillation set."
        )
    few = [code for code, (foreign, _) in pairs.items() if len(foreign) < 2]
    if few:
        raise InputError(
            "Without --set every second held-out pair says which tokens are used. Received: "
            f"fewer than 2 pairs of {', '.join(few)}. Pass --set, or more pairs."
        )
    say("Every second held-out pair says which tokens are used; the others measure (no --set)")
    deciding = (text for sides in pairs.values() for side in sides for text in side[::2])
    measuring = {code: (foreign[1::2], english[1::2]) for code, (foreign, english) in pairs.items()}
    return deciding, measuring
