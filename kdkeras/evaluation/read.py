"""Reading evaluation files: STS pairs with scores, and translations."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator
from pathlib import Path

from kdkeras.data.corpus_files import read_lines
from kdkeras.errors import InputError
from kdkeras.evaluation.evaluators import (
    AsymmetricRetrievalEvaluator,
    EmbeddingSimilarityEvaluator,
    Encoder,
    TranslationEvaluator,
)

__all__ = ["read_asymmetric_retrieval", "read_retrieval", "read_similarity"]


def read_similarity(
    path: str | os.PathLike[str], name: str | None = None
) -> EmbeddingSimilarityEvaluator:
    """Reads `sentence1<TAB>sentence2<TAB>score` rows (UTF-8, plain or gzip).

    Args:
        path: The file.
        name: The evaluator's name; the file's name without its ending if left
            out (`en-de.test.tsv.gz` gives `en_de_test`).

    Raises:
        InputError: If the file cannot be read, is empty, or a row (its number
            is told) is not of this form.
    """
    pairs, scores = [], []
    for number, row in _rows(path, 3, "sentence<TAB>sentence<TAB>score"):
        pairs.append(row[:2])
        scores.append(_score(path, number, row[2]))
    return EmbeddingSimilarityEvaluator(
        name or _name(path), [pair[0] for pair in pairs], [pair[1] for pair in pairs], scores
    )


def read_retrieval(path: str | os.PathLike[str], name: str | None = None) -> TranslationEvaluator:
    """Reads `foreign<TAB>English` rows (UTF-8, plain or gzip).

    Args:
        path: The file.
        name: The evaluator's name; the file's name without its ending if left
            out (`deu-eng.tsv.gz` gives `deu_eng`).

    Raises:
        InputError: If the file cannot be read, is empty, or a row (its number
            is told) is not of this form.
    """
    rows = [row for _, row in _rows(path, 2, "foreign<TAB>English")]
    return TranslationEvaluator(
        name or _name(path), [row[0] for row in rows], [row[1] for row in rows]
    )


def read_asymmetric_retrieval(
    path: str | os.PathLike[str], teacher: Encoder, name: str | None = None
) -> AsymmetricRetrievalEvaluator:
    """Reads `foreign<TAB>English` rows: foreign queries, an English index of the teacher's.

    Args:
        path: The file.
        teacher: Embeds the index, and the queries for comparison.
        name: As for `read_retrieval`.

    Raises:
        InputError: As `read_retrieval`.
    """
    plain = read_retrieval(path, name)
    return AsymmetricRetrievalEvaluator(plain.name, plain.foreign, plain.english, teacher)


def _name(path: str | os.PathLike[str]) -> str:
    stem = re.sub(r"\.(tsv|txt)?(\.gz)?$", "", Path(path).name)
    return re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_") or "file"


def _rows(path: str | os.PathLike[str], columns: int, form: str) -> Iterator[tuple[int, list[str]]]:
    """Yields rows with their numbers; blank lines are passed over."""
    found = False
    for number, line in read_lines(path):
        if not line.strip():
            continue
        row = line.split("\t")
        if len(row) < columns or not all(cell.strip() for cell in row[:columns]):
            raise InputError(
                f"Each row must be {form}. Received: {path}, line {number}: {line[:60]!r}. "
                "Correct or remove the row."
            )
        found = True
        yield number, row[:columns]
    if not found:
        raise InputError(
            f"An evaluation file must hold at least one row {form}. Received: {path}, empty. "
            "Check the file."
        )


def _score(path: str | os.PathLike[str], number: int, text: str) -> float:
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not math.isfinite(score):
        raise InputError(
            f"A score must be a finite number. Received: {path}, line {number}: {text!r}. "
            "Correct or remove the row."
        )
    return score
