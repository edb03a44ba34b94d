"""Held-out pairs for retrieval, by language."""

from __future__ import annotations

import os
from pathlib import Path

from kdkeras.data.corpus import normalize
from kdkeras.data.corpus_files import read_lines
from kdkeras.errors import InputError

__all__ = ["read_retrieval_pairs"]

RetrievalPairs = dict[str, tuple[list[str], list[str]]]


def read_retrieval_pairs(folder: str | os.PathLike[str]) -> RetrievalPairs:
    """Reads `{language}.tsv` (or `.tsv.gz`) files of `foreign⇥English` rows.

    Args:
        folder: The folder that holds them.

    Returns:
        By language, the foreign sentences and the English ones (NFC), row by
        row.

    Raises:
        InputError: If there is no such file, a row has no tab (named with its
            line), or a file holds no row.
    """
    folder = Path(folder)
    paths = [*folder.glob("*.tsv"), *folder.glob("*.tsv.gz")] if folder.is_dir() else []
    if not paths:
        raise InputError(
            "A folder of retrieval pairs must hold files like `de.tsv`, rows `foreign<TAB>English`."
            f" Received: {folder} without any. Check the path."
        )
    return {path.name.partition(".")[0]: _read(path) for path in sorted(paths)}


def _read(path: Path) -> tuple[list[str], list[str]]:
    foreign: list[str] = []
    english: list[str] = []
    for number, line in read_lines(path):
        left, tab, right = line.partition("\t")
        if not tab or not left.strip() or not right.strip():
            raise InputError(
                "Each row must be `foreign<TAB>English`. "
                f"Received: {path}, line {number}: {line[:60]!r}. Correct or remove the row."
            )
        foreign.append(normalize(left))
        english.append(normalize(right.partition("\t")[0]))
    if not foreign:
        raise InputError(
            f"Retrieval pairs need at least one row. Received: {path}, empty. Remove the file."
        )
    return foreign, english
