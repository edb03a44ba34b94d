"""Runs a teacher once over parallel sentences and keeps what it says: a distillation set.

The work is kept in shards: after an interruption the same command goes on where it was.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdkeras.cli.options import add_overwrite, positive_int

HELP = "write the teacher's embeddings of a corpus (a distillation set)"


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
        help="sentence-transformers snapshot, or its name on the hub",
    )
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FOLDER", help="the distillation set"
    )
    parser.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="FILE",
        help="test set, TSV of any columns; a pair that shares either side with it is left "
        "out; may be given several times",
    )
    parser.add_argument(
        "--groups-per-shard",
        type=positive_int,
        default=4096,
        metavar="N",
        help="source sentences a shard; what an interruption can cost at most",
    )
    parser.add_argument(
        "--batch-size",
        type=positive_int,
        default=64,
        metavar="N",
        help="sentences the teacher reads at once",
    )
    parser.add_argument(
        "--max-characters",
        type=positive_int,
        default=1000,
        metavar="N",
        help="rows with a longer side are dropped, and counted",
    )
    parser.add_argument(
        "--min-pairs",
        type=positive_int,
        default=10,
        metavar="N",
        help="pairs that every language must have at least",
    )
    add_overwrite(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Writes the set."""
    from kdkeras import data, teachers
    from kdkeras.cli.progress import bar

    teacher = teachers.load(arguments.teacher)
    try:
        with bar("Teacher", unit="source sentences") as progress:
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
            f"Finished shards are kept in {arguments.output}; the same command goes on from them."
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
    """Yields the pairs by language, and where the set is."""
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
