"""Evaluators of nearest neighbor retrieval."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from kdkeras.data.text_files import read_translations
from kdkeras.errors import InputError
from kdkeras.evaluation.encoders import Encoder, check_finite, encode_all
from kdkeras.evaluation.evaluator import TsvPath, check_lengths, checked_name, name_of
from kdkeras.evaluation.metrics import retrieval_accuracy

__all__ = ["AsymmetricRetrievalEvaluator", "TranslationEvaluator"]


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
        self.name = checked_name(name)
        self.foreign, self.english = list(foreign), list(english)
        check_lengths(name, len(self.foreign), len(self.english))

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
        return cls(name or name_of(path), *read_translations(path))

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
        self.name = checked_name(name)
        self.queries, self.documents = list(queries), list(documents)
        check_lengths(name, len(self.queries), len(self.documents))
        teacher = f"{name} (teacher)"
        if not isinstance(index, np.ndarray):
            teacher_queries, index = encode_all(teacher, index, self.queries, self.documents)
        for vectors in (index, *(() if teacher_queries is None else (teacher_queries,))):
            check_lengths(teacher, len(vectors), len(self.documents))
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
        return cls(name or name_of(path), *read_translations(path), teacher)

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
