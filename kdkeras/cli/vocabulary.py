"""Trains the student's vocabulary on a distillation set or on corpus files."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdkeras.cli.options import add_overwrite, add_seed, fraction, positive_int
from kdkeras.recipe import Recipe

HELP = "train the student's vocabulary"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "sentences",
        nargs="+",
        metavar="SET|CORPUS",
        help="a distillation set (folder), or parallel files as for `kdkeras targets`",
    )
    parser.add_argument(
        "--size",
        type=positive_int,
        default=32_000,
        metavar="TOKENS",
        help="number of tokens; each is one row of the student's table",
    )
    parser.add_argument(
        "--kind",
        choices=["mixed", "sentencepiece", "wordpiece"],
        default="mixed",
        help="mixed: whole words in languages with spaces, unigram pieces in others, in a "
        "SentencePiece model; sentencepiece: unigram pieces only; wordpiece: runs in every version "
        "of MediaPipe",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FOLDER", help="the vocabulary"
    )
    parser.add_argument(
        "--language-temperature",
        type=fraction,
        default=Recipe.vocabulary_temperature,
        metavar="ALPHA",
        help="languages of a distillation set count in proportion to sentences^ALPHA: 1 is their "
        "share of the set, 0 is equal shares",
    )
    add_seed(parser)
    add_overwrite(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Trains and saves the vocabulary."""
    from kdkeras import data
    from kdkeras.files import refuse_existing

    refuse_existing(arguments.output, arguments.overwrite)
    vocabulary = data.train_vocabulary(
        _sentences(arguments.sentences),
        size=arguments.size,
        kind=arguments.kind,
        seed=arguments.seed,
        language_temperature=arguments.language_temperature,
    )
    vocabulary.save(arguments.output, overwrite=arguments.overwrite)
    return {
        "output": str(arguments.output),
        "kind": arguments.kind,
        "size": vocabulary.size,
        "fingerprint": vocabulary.fingerprint,
    }


def _sentences(sources: list[str]) -> Any:
    from kdkeras import data

    if len(sources) == 1 and (Path(sources[0]) / "manifest.json").is_file():
        return data.DistillationSet(sources[0])
    groups, _ = data.read_corpus(sources, min_pairs=1)
    return [text for group in groups for text in (group.source, *group.translations)]


def show(result: dict[str, Any]) -> Iterator[str]:
    """Yields the path of the vocabulary."""
    yield f"{result['kind']} vocabulary of {result['size']:,} tokens: {result['output']}"
