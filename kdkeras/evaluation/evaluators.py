"""Evaluators: callables that compute the metrics of an encoder."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from kdkeras.data.text_files import read_rows, read_translations
from kdkeras.errors import InputError
from kdkeras.evaluation.encoders import Encoder, check_finite, encode_all
from kdkeras.evaluation.metrics import cosine_by_row, retrieval_accuracy, spearman, teacher_match
from kdkeras.progress import Progress, no_progress

__all__ = [
    "AsymmetricRetrievalEvaluator",
    "EmbeddingSimilarityEvaluator",
    "Evaluator",
    "TeacherMatchEvaluator",
    "TranslationEvaluator",
    "evaluate_all",
]

TsvPath = str | os.PathLike[str]


class Evaluator(Protocol):
    """A callable that computes metrics of an encoder.

    Attributes:
        name: Prefix of the names of the metrics.
    """

    name: str

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Returns the metrics of `encoder` by name."""


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
        self.name = _checked_name(name)
        self.sentences1, self.sentences2 = list(sentences1), list(sentences2)
        self.scores = np.asarray(scores, np.float64)
        _check_lengths(name, len(self.sentences1), len(self.sentences2), len(self.scores))
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
            name or _name_of(path), [row[0] for row in rows], [row[1] for row in rows], scores
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


class TranslationEvaluator:
    """Measures how often the nearest neighbor of a sentence is its translation.

    Equal texts and ties count as in `retrieval_accuracy`.

    Args:
        name: Prefix of the metrics: `"tatoeba_deu"` gives
            `tatoeba_deu_accuracy`, the mean of both directions,
            `tatoeba_deu_to_english_accuracy` and
            `tatoeba_deu_from_english_accuracy`. Letters, digits and
            underscores.
        foreign: Sentences of one language.
        english: Their translations, aligned.

    Raises:
        InputError: If the name is not valid or the lengths differ.

    Example:
        >>> evaluator = TranslationEvaluator.from_tsv("deu-eng.tsv.gz")  # doctest: +SKIP
        >>> evaluator(student)["deu_eng_accuracy"]  # doctest: +SKIP
        0.93
    """

    def __init__(self, name: str, foreign: Sequence[str], english: Sequence[str]) -> None:
        self.name = _checked_name(name)
        self.foreign, self.english = list(foreign), list(english)
        _check_lengths(name, len(self.foreign), len(self.english))

    @classmethod
    def from_tsv(cls, path: TsvPath, name: str | None = None) -> TranslationEvaluator:
        """Reads a file of `foreign<TAB>English` rows.

        Args:
            path: The file, UTF-8, plain or `.gz`. Blank lines and further
                columns are ignored; sentences are normalized to NFC.
            name: Name of the evaluator. Default: the name of the file,
                `"deu_eng"` for `deu-eng.tsv.gz`.

        Raises:
            InputError: If the file cannot be read, has no rows, or has a row
                of another form; the message states the line.
        """
        return cls(name or _name_of(path), *read_translations(path))

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Returns the three accuracies, in [0, 1]."""
        foreign, english = encode_all(self.name, encoder, self.foreign, self.english)
        accuracy = retrieval_accuracy(foreign, english, self.foreign, self.english)
        return {
            f"{self.name}_accuracy": accuracy.mean,
            f"{self.name}_to_english_accuracy": accuracy.forward,
            f"{self.name}_from_english_accuracy": accuracy.backward,
        }


class AsymmetricRetrievalEvaluator:
    """Measures retrieval with the student's queries in the teacher's index.

    A student that was trained on the unchanged embeddings of its teacher (not
    rotated or projected ones) can query an index that the teacher computed:
    the large model runs once per document on a server, the small one once per
    query on a device.

    | metric | queries embedded by | index embedded by |
    |---|---|---|
    | `{name}_asymmetric_accuracy` | student | teacher |
    | `{name}_student_accuracy` | student | student |
    | `{name}_teacher_accuracy` | teacher | teacher |

    Each is the fraction of queries whose nearest neighbor is their document;
    equal texts and ties count as in `retrieval_accuracy`.

    Args:
        name: Prefix of the metrics. Letters, digits and underscores.
        queries: The queries, e.g. sentences of a foreign language.
        documents: The documents, aligned with the queries.
        index: The teacher, or its `(n, d)` embeddings of `documents`.
        teacher_queries: If `index` is an array, the `(n, d)` embeddings of
            `queries` by the teacher. Optional; without them, the third metric
            is omitted.

    Raises:
        InputError: If the name is not valid, lengths differ, or embeddings
            are not finite; when called, if the width of the student differs
            from that of the index.

    References:
        Vujanic, Rückstieß (2025), LEAF, arXiv:2509.12539.
    """

    def __init__(
        self,
        name: str,
        queries: Sequence[str],
        documents: Sequence[str],
        index: Encoder | np.ndarray,
        teacher_queries: np.ndarray | None = None,
    ) -> None:
        self.name = _checked_name(name)
        self.queries, self.documents = list(queries), list(documents)
        _check_lengths(name, len(self.queries), len(self.documents))
        teacher = f"{name} (teacher)"
        if not isinstance(index, np.ndarray):
            teacher_queries, index = encode_all(teacher, index, self.queries, self.documents)
        for vectors in (index, *(() if teacher_queries is None else (teacher_queries,))):
            _check_lengths(teacher, len(vectors), len(self.documents))
            check_finite(teacher, vectors)
        self.index, self.teacher_queries = index, teacher_queries

    @classmethod
    def from_tsv(
        cls, path: TsvPath, teacher: Encoder, name: str | None = None
    ) -> AsymmetricRetrievalEvaluator:
        """Reads a file of `foreign<TAB>English` rows.

        The foreign sentences are the queries, the English ones the documents.

        Args:
            path: The file, as for `TranslationEvaluator.from_tsv`.
            teacher: Embeds the documents, and the queries for comparison.
            name: Name of the evaluator. Default: the name of the file.

        Raises:
            InputError: If the file cannot be read, has no rows, or has a row
                of another form; the message states the line.
        """
        return cls(name or _name_of(path), *read_translations(path), teacher)

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Returns the metrics of the table, in [0, 1]."""
        queries, documents = encode_all(self.name, encoder, self.queries, self.documents)
        if queries.shape[1] != self.index.shape[1]:
            raise InputError(
                f"Evaluator {self.name}: queries must have the width of the index. Received: "
                f"{queries.shape[1]} and {self.index.shape[1]}. Use the student's own teacher, or "
                "truncate the index like the student."
            )
        accuracies = {
            "asymmetric": self._accuracy(queries, self.index),
            "student": self._accuracy(queries, documents),
        }
        if self.teacher_queries is not None:
            accuracies["teacher"] = self._accuracy(self.teacher_queries, self.index)
        return {f"{self.name}_{key}_accuracy": value for key, value in accuracies.items()}

    def _accuracy(self, queries: np.ndarray, documents: np.ndarray) -> float:
        return retrieval_accuracy(queries, documents, self.queries, self.documents).forward


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
        self.name = _checked_name(name)
        self.sentences = list(sentences)
        self.teacher_embeddings = np.asarray(teacher_embeddings, np.float32)
        _check_lengths(name, len(self.sentences), len(self.teacher_embeddings))
        check_finite(f"{name} (teacher)", self.teacher_embeddings)

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Returns `{name}_teacher_match`, the mean cosine, in [-1, 1]."""
        (embeddings,) = encode_all(self.name, encoder, self.sentences)
        try:
            value = teacher_match(embeddings, self.teacher_embeddings)
        except InputError as error:
            raise InputError(f"Evaluator {self.name}: {error}") from error
        return {f"{self.name}_teacher_match": value}


def evaluate_all(
    evaluators: Iterable[Evaluator], encoder: Encoder, progress: Progress = no_progress
) -> dict[str, float]:
    """Runs several evaluators.

    Args:
        evaluators: The evaluators.
        encoder: The encoder to evaluate.
        progress: Called as `progress(task, done, total)`, in evaluators.

    Returns:
        All metrics in one dictionary, in the order of the evaluators.

    Raises:
        InputError: If two evaluators return a metric of the same name.
    """
    evaluators = list(evaluators)
    results: dict[str, float] = {}
    progress("Evaluating", 0, len(evaluators))
    for done, evaluator in enumerate(evaluators, 1):
        metrics = evaluator(encoder)
        repeated = sorted(results.keys() & metrics.keys())
        if repeated:
            raise InputError(
                "Evaluators must have different names. "
                f"Received: {repeated[0]} twice. Rename one, e.g. by its language."
            )
        results.update(metrics)
        progress(f"Evaluating, {evaluator.name}", done, len(evaluators))
    return results


def _name_of(path: TsvPath) -> str:
    stem = re.sub(r"\.(tsv|txt)?(\.gz)?$", "", Path(path).name)
    return re.sub(r"[^A-Za-z0-9]+", "_", stem).strip("_") or "file"


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


def _check_lengths(name: str, *lengths: int) -> None:
    if len(set(lengths)) != 1 or lengths[0] == 0:
        raise InputError(
            f"Evaluator {name}: its lists must have equal lengths and not be empty. "
            f"Received: lengths {', '.join(map(str, lengths))}. Pass aligned lists."
        )


def _checked_name(name: str) -> str:
    # Metrics become keys of Keras logs and columns of CSV files.
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise InputError(
            "The name of an evaluator must consist of letters, digits and underscores. "
            f"Received: name={name!r}. Example: sts17_en_de."
        )
    return name
