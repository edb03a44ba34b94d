"""Evaluators: an encoder in, figures by name out."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Protocol

import numpy as np

from kdkeras.errors import InputError
from kdkeras.evaluation.metrics import cosine_by_row, retrieval_accuracy, spearman, teacher_match

__all__ = [
    "AsymmetricRetrievalEvaluator",
    "Encoder",
    "Evaluator",
    "TranslationEvaluator",
    "EmbeddingSimilarityEvaluator",
    "TeacherMatchEvaluator",
    "evaluate_all",
]


class Encoder(Protocol):
    """Anything that embeds strings: a student, a teacher, an artifact."""

    def encode(self, texts: list[str]) -> np.ndarray:
        """Returns `(len(texts), d)`."""


class Evaluator(Protocol):
    """A callable that gives figures by name."""

    name: str

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Evaluates `encoder`."""


class EmbeddingSimilarityEvaluator:
    """Measures how well cosines order sentence pairs as people did.

    The two sides may be of different languages. The figure is Spearman's rank
    correlation between the cosines and the scores, so that the scores' scale
    does not matter.

    Args:
        name: Start of the figure's name, with the languages: `"sts17_en_de"`
            gives `sts17_en_de_spearman`.
        sentences1: First sentences.
        sentences2: Second sentences, as many.
        scores: One score a pair, higher = more similar; not all equal.

    Raises:
        InputError: If the name, the lengths or the scores do not fit.
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
        # What a correlation refuses about the scores is told before encoding.
        spearman(self.scores, np.arange(len(self.scores)))

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Returns `{name}_spearman`, in [-1, 1]."""
        left, right = _encode(self.name, encoder, self.sentences1, self.sentences2)
        try:
            value = spearman(cosine_by_row(left, right), self.scores)
        except InputError as error:
            raise InputError(f"Evaluator {self.name}: {error}") from error
        return {f"{self.name}_spearman": value}


class TranslationEvaluator:
    """Measures how often a sentence's translation is its nearest neighbour.

    Args:
        name: Start of the figures' names: `"tatoeba_deu"` gives
            `tatoeba_deu_accuracy`, the mean of both directions, and the
            directions `tatoeba_deu_to_english_accuracy` and
            `tatoeba_deu_from_english_accuracy`.
        foreign: Sentences of one language.
        english: Their translations, as many.

    Raises:
        InputError: If the name or the lengths do not fit.
    """

    def __init__(self, name: str, foreign: Sequence[str], english: Sequence[str]) -> None:
        self.name = _checked_name(name)
        self.foreign, self.english = list(foreign), list(english)
        _check_lengths(name, len(self.foreign), len(self.english))

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Returns the three accuracies, in [0, 1]."""
        foreign, english = _encode(self.name, encoder, self.foreign, self.english)
        accuracy = retrieval_accuracy(foreign, english, self.foreign, self.english)
        return {
            f"{self.name}_accuracy": accuracy.mean,
            f"{self.name}_to_english_accuracy": accuracy.forward,
            f"{self.name}_from_english_accuracy": accuracy.backward,
        }


class AsymmetricRetrievalEvaluator:
    """Measures a student's queries against an index of its teacher's vectors.

    A student that was taught its teacher's vectors (not turned ones) can search
    what the teacher indexed: the large model runs once a document on a server, the
    small one once a query on a phone.

    | figure | queries by | index by |
    |---|---|---|
    | `{name}_asymmetric_accuracy` | the student | the teacher |
    | `{name}_student_accuracy` | the student | the student |
    | `{name}_teacher_accuracy` | the teacher | the teacher |

    Each is the share of queries whose document is the nearest of all; equal texts
    and ties count as in `retrieval_accuracy`.

    Args:
        name: Start of the figures' names.
        queries: Sentences that are looked for, e.g. of a foreign language.
        documents: What is to be found, as many, row by row.
        index: The teacher, or its vectors of `documents`, `(n, d)`.
        teacher_queries: With vectors as `index`, the teacher's vectors of `queries`,
            `(n, d)`; without them the third figure is left out.

    Raises:
        InputError: If the name, the lengths or the vectors do not fit; while
            evaluating, if the student's embeddings have another width than the index.

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
        if not isinstance(index, np.ndarray):
            teacher_queries, index = _encode(
                f"{name} (teacher)", index, self.queries, self.documents
            )
        for vectors in (index, *(() if teacher_queries is None else (teacher_queries,))):
            _check_lengths(f"{name} (teacher)", len(vectors), len(self.documents))
            _check_finite(f"{name} (teacher)", vectors)
        self.index, self.teacher_queries = index, teacher_queries

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Returns the figures of the table, in [0, 1]."""
        queries, documents = _encode(self.name, encoder, self.queries, self.documents)
        if queries.shape[1] != self.index.shape[1]:
            raise InputError(
                f"Evaluator {self.name}: queries must be as wide as the index. Received: "
                f"{queries.shape[1]} and {self.index.shape[1]}. Use the student's own teacher, or "
                "cut the index as the student was cut."
            )
        figures = {
            "asymmetric": self._accuracy(queries, self.index),
            "student": self._accuracy(queries, documents),
        }
        if self.teacher_queries is not None:
            figures["teacher"] = self._accuracy(self.teacher_queries, self.index)
        return {f"{self.name}_{key}_accuracy": value for key, value in figures.items()}

    def _accuracy(self, queries: np.ndarray, documents: np.ndarray) -> float:
        return retrieval_accuracy(queries, documents, self.queries, self.documents).forward


class TeacherMatchEvaluator:
    """Measures how near the student's embeddings are to the teacher's.

    Args:
        name: Start of the figure's name: `"held_out_en"` gives
            `held_out_en_teacher_match`.
        sentences: The sentences; in the teacher's language, or translations.
        teacher_embeddings: `(len(sentences), d)`, what the teacher gave.

    Raises:
        InputError: If the name or the lengths do not fit.
    """

    def __init__(self, name: str, sentences: Sequence[str], teacher_embeddings: np.ndarray) -> None:
        self.name = _checked_name(name)
        self.sentences = list(sentences)
        self.teacher_embeddings = np.asarray(teacher_embeddings, np.float32)
        _check_lengths(name, len(self.sentences), len(self.teacher_embeddings))
        _check_finite(f"{name} (teacher)", self.teacher_embeddings)

    def __call__(self, encoder: Encoder) -> dict[str, float]:
        """Returns `{name}_teacher_match`, the mean cosine, in [-1, 1]."""
        (embeddings,) = _encode(self.name, encoder, self.sentences)
        try:
            value = teacher_match(embeddings, self.teacher_embeddings)
        except InputError as error:
            raise InputError(f"Evaluator {self.name}: {error}") from error
        return {f"{self.name}_teacher_match": value}


def evaluate_all(evaluators: Iterable[Evaluator], encoder: Encoder) -> dict[str, float]:
    """Runs evaluators one after the other.

    Returns:
        All their figures in one dictionary, in order.

    Raises:
        InputError: If two evaluators give a figure of the same name.
    """
    results: dict[str, float] = {}
    for evaluator in evaluators:
        figures = evaluator(encoder)
        repeated = sorted(results.keys() & figures.keys())
        if repeated:
            raise InputError(
                "Evaluators must have different names. "
                f"Received: {repeated[0]} twice. Rename one, with its language in the name."
            )
        results.update(figures)
    return results


def _encode(name: str, encoder: Encoder, *sides: list[str]) -> list[np.ndarray]:
    found = [np.asarray(encoder.encode(side)) for side in sides]
    for side, embeddings in zip(sides, found, strict=True):
        if embeddings.ndim != 2 or len(embeddings) != len(side):
            raise InputError(
                f"Evaluator {name}: an encoder must give one vector a sentence. "
                f"Received: shape {embeddings.shape} for {len(side)} sentences. "
                "Correct its `encode`."
            )
        _check_finite(name, embeddings)
    return found


def _check_finite(name: str, embeddings: np.ndarray) -> None:
    bad = np.flatnonzero(~np.isfinite(embeddings).all(axis=1))
    if len(bad):
        raise InputError(
            f"Evaluator {name}: embeddings must be finite. Received: {len(bad)} of "
            f"{len(embeddings)} with NaN or infinity, the first at sentence {bad[0]}. "
            "Look at the training's losses; the encoder is broken."
        )


def _check_lengths(name: str, *lengths: int) -> None:
    if len(set(lengths)) != 1 or lengths[0] == 0:
        raise InputError(
            f"Evaluator {name}: its lists must be equally long and not empty. "
            f"Received: lengths {', '.join(map(str, lengths))}. Pass aligned lists."
        )


def _checked_name(name: str) -> str:
    # Figures become keys of Keras logs and columns of CSV files.
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise InputError(
            "An evaluator's name must be of letters, digits and underscores. "
            f"Received: name={name!r}. Example: sts17_en_de."
        )
    return name
