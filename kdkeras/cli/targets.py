"""Embeds parallel sentences with a teacher and writes the embeddings to a distillation set.

The set is written in shards. After an interruption the same command continues with the next shard.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdkeras.cli.options import add_overwrite, positive_int

HELP = "write a distillation set: a corpus with the teacher's embeddings"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "corpus",
        nargs="+",
        metavar="CORPUS",
        help="parallel sentences, UTF-8: `source<TAB>translation` rows in a file named "
        "en-de.tsv or en-de.tsv.gz, either side of a Moses pair (name.en-de.en), or a folder "
        "of such TSV files",
    )
    parser.add_argument(
        "--teacher",
        required=True,
        metavar="FOLDER|hf://NAME",
        help="folder of a sentence-transformers model, or its name on the Hugging Face Hub",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FOLDER", help="the distillation set"
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="FILE",
        help="test set, a TSV file with any columns; pairs with a sentence in it are excluded; "
        "repeatable",
    )
    parser.add_argument(
        "--groups-per-shard",
        type=positive_int,
        default=4096,
        metavar="N",
        help="source sentences per shard; an interruption loses at most one shard",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=64,
        metavar="N",
        help="sentences per forward pass of the teacher",
    )
    parser.add_argument(
        "--max-characters",
        type=positive_int,
        default=1000,
        metavar="N",
        help="maximum length of a sentence; pairs with a longer one are dropped and counted",
    )
    parser.add_argument(
        "--min-pairs",
        type=positive_int,
        default=10,
        metavar="N",
        help="minimum number of pairs per language",
    )
    add_overwrite(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes the set."""
    from kdkeras import data, teachers
    from kdkeras.cli.progress import show_progress

    teacher = teachers.load(arguments.teacher)
    try:
        with show_progress() as progress:
            dataset = data.write_distillation_set(
                arguments.corpus,
                teacher,
                arguments.output,
                exclude=arguments.exclude,
                max_characters=arguments.max_characters,
                min_pairs=arguments.min_pairs,
                groups_per_shard=arguments.groups_per_shard,
                batch_size=arguments.batch_size,
                overwrite=arguments.overwrite,
                progress=progress,
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Finished shards are kept in {arguments.output}. The same command continues."
        ) from None
    return {
        "output": str(arguments.output),
        "teacher": dataset.teacher,
        "embedding_dim": dataset.embedding_dim,
        "groups": dataset.num_groups,
        "pairs": dataset.num_pairs,
        "pairs_by_language": dict(dataset.counts),
        "corpus": dataset.manifest["report"],
    }


def show(result: dict[str, Any]) -> Iterator[Any]:
    """Yields the number of pairs by language, and the path of the set."""
    from kdkeras.cli.tables import table

    yield table(
        ["language", "pairs"],
        [[name, f"{count:,}"] for name, count in sorted(result["pairs_by_language"].items())],
    )
    corpus = result["corpus"]
    dropped = [f"{count:,} {reason}" for reason, count in corpus["dropped"].items() if count]
    yield f"{corpus['rows']:,} rows read; dropped: {', '.join(dropped) or 'none'}"
    yield (
        f"{result['groups']:,} source sentences, {result['pairs']:,} pairs, "
        f"{result['embedding_dim']} dimensions: {result['output']}"
    )
