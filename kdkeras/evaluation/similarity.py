"""Evaluators of the cosines between pairs of embeddings."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from kdkeras.data.text_files import read_rows
from kdkeras.errors import InputError
from kdkeras.evaluation.encoders import Encoder, check_finite, encode_all
from kdkeras.evaluation.evaluator import TsvPath, check_lengths, checked_name, name_of
from kdkeras.evaluation.metrics import spearman, teacher_match
from kdkeras.vectors import cosine_by_row

__all__ = ["EmbeddingSimilarityEvaluator", "TeacherMatchEvaluator"]


class EmbeddingSimilarityEvaluator:
    """Measures the correlation of cosines with human similarity scores.

    The metric is Spearman's rank correlation, so the scale of the scores does
    not matter. The two sentences of a pair may have different languages.

    Args:
        name: Prefix of the metric: `"sts17_en_de"` gives
            `sts17_en_de_spearman`. Letters, digits and underscores.
        sentences1: First sentence of each pair.
        sentences2: Second sentence of each pair.
        scores: `(n,)`, one score per pair; higher means more similar. Not all
            may be equal.

    Raises:
        InputError: If the name is not valid, the lengths differ, or the
            scores have no correlation (equal or not finite).

    Example:
        >>> evaluator = EmbeddingSimilarityEvaluator.from_tsv(
        ...     "en-de.test.tsv.gz"
        ... )  # doctest: +SKIP
        >>> evaluator(student)  # doctest: +SKIP
        {'en_de_test_spearman': 0.71}
    """

    def __init__(
        self,
        name: str,
        sentences1: Sequence[str],
        sentences2: Sequence[str],
        scores: Sequence[float] | np.ndarray,
    ) -> None:
        self.name = checked_name(name)
        self.sentences1, self.sentences2 = list(sentences1), list(sentences2)
        self.scores = np.asarray(scores, np.float64)
        check_lengths(name, len(self.sentences1), len(self.sentences2), len(self.scores))
        # Scores without a correlation are rejected before encoding.
        spearman(self.scores, np.arange(len(self.scores)))

    @classmethod
    def from_tsv(cls, path: TsvPath, name: str | None = None) -> EmbeddingSimilarityEvaluator:
        """Reads a file of `sentence<TAB>sentence<TAB>score` rows.

        Args:
            path: The file, UTF-8, plain or `.gz`. Blank lines and further
                columns are ignored; sentences are normalized to NFC.
            name: Name of the evaluator. Default: the name of the file,
                `"en_de_test"` for `en-de.test.tsv.gz`.

        Raises:
            InputError: If the file cannot be read, has no rows, or has a row
                of another form; the message states the line.
        """
        rows, scores = [], []
        for number, row in read_rows(path, "sentence<TAB>sentence<TAB>score"):
            rows.append(row)
            scores.append(_score(path, number, row[2]))
        return cls(
            name or name_of(path), [row[0] for row in rows], [row[1] for row in rows], scores
        )

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Returns `{name}_spearman`, in [-1, 1]."""
        sides = encode_all(self.name, encoder, self.sentences1, self.sentences2)
        try:
            return {f"{self.name}_spearman": self.correlation(*sides)}
        except InputError as error:
            raise InputError(f"Evaluator {self.name}: {error}") from error

    def correlation(self, embeddings1: np.ndarray, embeddings2: np.ndarray) -> float:
        """Computes Spearman's correlation of cosines and scores.

        Args:
            embeddings1: `(n, d)` embeddings of `sentences1`.
            embeddings2: `(n, d)` embeddings of `sentences2`.

        Returns:
            The correlation, in [-1, 1].

        Raises:
            InputError: If the cosines are not finite or all equal.
        """
        return spearman(cosine_by_row(embeddings1, embeddings2), self.scores)


class TeacherMatchEvaluator:
    """Measures the mean cosine between student and teacher embeddings.

    Args:
        name: Prefix of the metric: `"held_out_en"` gives
            `held_out_en_teacher_match`. Letters, digits and underscores.
        sentences: Sentences of the teacher's language, or translations of
            them.
        teacher_embeddings: `(len(sentences), d)` embeddings by the teacher.

    Raises:
        InputError: If the name is not valid, the lengths differ, or the
            embeddings are not finite.
    """

    def __init__(self, name: str, sentences: Sequence[str], teacher_embeddings: np.ndarray) -> None:
        self.name = checked_name(name)
        self.sentences = list(sentences)
        self.teacher_embeddings = np.asarray(teacher_embeddings, np.float32)
        check_lengths(name, len(self.sentences), len(self.teacher_embeddings))
        check_finite(f"{name} (teacher)", self.teacher_embeddings)

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Returns `{name}_teacher_match`, the mean cosine, in [-1, 1]."""
        (embeddings,) = encode_all(self.name, encoder, self.sentences)
        try:
            value = teacher_match(embeddings, self.teacher_embeddings)
        except InputError as error:
            raise InputError(f"Evaluator {self.name}: {error}") from error
        return {f"{self.name}_teacher_match": value}


def _score(path: TsvPath, number: int, text: str) -> float:
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
