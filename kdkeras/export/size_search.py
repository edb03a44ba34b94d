"""Finds the best smaller student within a size limit."""

from __future__ import annotations

import math
import tempfile
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdkeras.compression import token_counts
from kdkeras.compression.pruning import vocabulary_of
from kdkeras.data.vocabularies import sample_sentences
from kdkeras.errors import InputError
from kdkeras.evaluation.metrics import retrieval_accuracy
from kdkeras.export.candidates import Candidate, Compressor, tokenizer_file_bytes
from kdkeras.export.exporter import DEFAULT_SEQUENCE_LENGTHS, export_student
from kdkeras.export.formats import DEFAULT_FORMATS, ExportFormat
from kdkeras.export.lite import LiteStudent
from kdkeras.progress import Progress, no_progress
from kdkeras.students import Student

__all__ = ["FittedStudent", "fit_size"]

Pairs = Mapping[str, tuple[Sequence[str], Sequence[str]]]

# Maximum number of sentences for computing principal axes.
_FOR_AXES = 4_000
# Estimated bytes per signature, and per block in a signature, until a file has been measured.
_GRAPH_BYTES = 4_000
_BLOCK_BYTES = 15_000
# Another export is worthwhile for this factor of additional tokens.
_MORE = 1.01


@dataclass(frozen=True, kw_only=True)
class FittedStudent:
    """The result of `fit_size`.

    Attributes:
        student: The smaller student. Export it in `format`.
        format: The TFLite format in which the student is within the limit.
        record: All candidates with their sizes and accuracies, JSON-serializable;
            see `fit_size`.
    """

    student: Student
    format: ExportFormat
    record: dict[str, Any]


def fit_size(
    student: Student,
    max_bytes: int,
    pairs: Pairs,
    sentences: Iterable[str],
    *,
    prune: bool = True,
    formats: Iterable[ExportFormat] = DEFAULT_FORMATS,
    sequence_lengths: Iterable[int] | None = None,
    progress: Progress = no_progress,
) -> FittedStudent:
    """Finds the best smaller student whose files are within a size limit.

    The search combines widths of the token table and of the embedding, the depth
    of a transformer, and TFLite formats. Each combination keeps as many of the
    tokens that occur in `sentences` as fit. A combination is skipped if none of
    its sizes is at least 10 % larger than in one that is known to fit. Every other
    combination is exported, its files are measured, and its retrieval accuracy is
    computed. The combination with the highest accuracy, averaged over the
    languages, is chosen.

    The size is that of the TFLite file plus that of the tokenizer file that a
    phone needs (`sentencepiece.model` or `vocab.txt`).

    Args:
        student: A static student or a transformer, with a vocabulary.
        max_bytes: The size limit in bytes.
        pairs: Language to `(foreign sentences, English sentences)`, for the
            retrieval accuracy.
        sentences: Sentences in these languages and in English that decide which
            tokens are needed. They should not occur in `pairs`.
        prune: Whether to remove unused tokens even if they fit. Defaults to True.
        formats: The formats to choose from. Defaults to those of
            `export_student`. Only TFLite formats are considered, and float32
            only if it is the only one.
        sequence_lengths: Number of tokens of each signature, see
            `export_student`. Optional.
        progress: A function that is called as `progress(task, done, total)`,
            counting combinations, including those that are skipped. Defaults to
            no reporting.

    Returns:
        The student, its format, and the record:

        ```
        {"limit_bytes": int, "languages": [str],
         "before": {"vocabulary_size", "accuracy", "worst", "worst_language", "languages"},
         "tried": [{"format", "vocabulary_size", "table_width", "output_dim", "num_layers",
                    "estimated_bytes", "model_bytes", "tokenizer_bytes", "bytes", "fits",
                    "chosen", "accuracy", "worst", "worst_language", "languages"}]}
        ```

        Accuracies are in [0, 1]: the mean over the languages, the worst language,
        and per language. They are None for a candidate that exceeds the limit.

    Raises:
        InputError: If no combination fits (the message contains the smallest
            size), `formats` has no TFLite format, or the student is neither
            static nor a transformer.

    Example:
        >>> found = fit_size(student, 8_000_000, pairs, sentences)  # doctest: +SKIP
        >>> export_student(found.student, "out", [found.format])  # doctest: +SKIP
    """
    chosen = _small_formats(formats)
    texts = sample_sentences(iter(sentences), seed=0)
    counts = token_counts(vocabulary_of(student), texts)
    compressor = Compressor(student, counts, texts[:: -(-len(texts) // _FOR_AXES)])
    search = _Search(compressor, max_bytes, pairs, sequence_lengths, progress)
    search.try_all(chosen, prune)
    if search.best is None:
        # Measuring the smallest candidate corrects the estimates.
        smallest = search.measure_smallest(chosen)
        search.try_all(chosen, prune)
    if search.best is None:
        raise _nothing_fits(smallest, search.tried[smallest], max_bytes)
    before = {language: _accuracy(student.encode, sides) for language, sides in pairs.items()}
    record = {
        "limit_bytes": max_bytes,
        "languages": list(pairs),
        "before": {"vocabulary_size": student.vocabulary_size, **_summary(before)},
        "tried": [
            {
                **asdict(candidate),
                "format": str(candidate.format),
                **found,
                "chosen": candidate == search.best,
            }
            for candidate, found in search.tried.items()
        ],
    }
    return FittedStudent(
        student=compressor.make(search.best), format=search.best.format, record=record
    )


def _small_formats(formats: Iterable[ExportFormat]) -> list[ExportFormat]:
    lite = [item for item in formats if item.is_tflite]
    if not lite:
        raise InputError(
            "`formats` must have at least one TFLite format, whose file size is limited. "
            "Received: no TFLite format. Add tflite_int8."
        )
    # Quantized formats are smaller and, within their gates, as accurate.
    return [item for item in lite if not item.is_exact] or lite


class _Search:
    """Tries candidates and stores their sizes and accuracies."""

    def __init__(
        self,
        compressor: Compressor,
        limit: int,
        pairs: Pairs,
        sequence_lengths: Iterable[int] | None,
        progress: Progress,
    ) -> None:
        self.compressor, self.limit, self.pairs = compressor, limit, pairs
        self._progress = progress
        self.lengths = None if sequence_lengths is None else list(sequence_lengths)
        longest = compressor.student.sequence_length
        shorter = [n for n in self.lengths or DEFAULT_SEQUENCE_LENGTHS if n < longest]
        self._signatures = len(shorter) + 1
        self.tried: dict[Candidate, dict[str, Any]] = {}
        # Per format and depth: bytes of the graphs, plus the error of the estimate.
        self._rest: dict[tuple[ExportFormat, int], float] = {}

    @property
    def best(self) -> Candidate | None:
        """The fitting candidate with the highest accuracy; the smallest among equals."""

        def quality(candidate: Candidate) -> tuple[float, float, int]:
            found = self.tried[candidate]
            return found["accuracy"], found["worst"], -found["bytes"]

        fitting = [candidate for candidate, found in self.tried.items() if found["fits"]]
        return max(fitting, key=quality, default=None)

    def try_all(self, formats: Sequence[ExportFormat], prune: bool) -> None:
        """Tries every combination of sizes in every format."""
        task = "Trying smaller sizes again" if self.tried else "Trying smaller sizes"
        shapes = [shape for item in formats for shape in self.compressor.shapes(item)]
        for done, shape in enumerate(shapes):
            self._progress(f"{task}, {_described(shape)}", done, len(shapes))
            if not prune:
                self.try_unpruned(shape)
            self.try_filled(shape)
        self._progress(task, len(shapes), len(shapes))

    def measure_smallest(self, formats: Sequence[ExportFormat]) -> Candidate:
        """Exports and measures the smallest candidate."""
        fewest = self.compressor.min_tokens
        shapes = (
            replace(shape, vocabulary_size=fewest)
            for item in formats
            for shape in self.compressor.shapes(item)
        )
        smallest = min(shapes, key=self.estimate)
        self.measure(smallest)
        return smallest

    def try_unpruned(self, shape: Candidate) -> None:
        """Tries a shape with the full vocabulary if it fits."""
        full = replace(shape, vocabulary_size=self.compressor.vocabulary.size)
        if self.estimate(full) <= self.limit and not self._is_redundant(full):
            self.measure(full)

    def try_filled(self, shape: Candidate) -> None:
        """Tries a shape with as many of the used tokens as fit."""
        candidate = self._filled(shape)
        if candidate is not None and self._is_redundant(candidate):
            return
        while candidate is not None:
            fits, tokens = self.measure(candidate)["fits"], candidate.vocabulary_size
            # The measured size has corrected the estimate.
            maximum = shape.vocabulary_size if fits else tokens - 1
            candidate = self._filled(replace(shape, vocabulary_size=maximum))
            if fits and candidate is not None and candidate.vocabulary_size < _MORE * tokens:
                return

    def _is_redundant(self, candidate: Candidate) -> bool:
        return any(
            other.makes_redundant(candidate) for other, found in self.tried.items() if found["fits"]
        )

    def _filled(self, shape: Candidate) -> Candidate | None:
        """Returns the shape with the maximum number of tokens that fits; None if there is none."""
        sizes = range(self.compressor.min_tokens, shape.vocabulary_size + 1)
        fitting = bisect_right(
            sizes,
            self.limit,
            key=lambda size: math.ceil(self.estimate(replace(shape, vocabulary_size=size))),
        )
        return replace(shape, vocabulary_size=sizes[fitting - 1]) if fitting else None

    def estimate(self, candidate: Candidate) -> float:
        """Returns the estimated size of both files in bytes."""
        blocks = candidate.num_layers
        guess = self._signatures * (_GRAPH_BYTES + blocks * _BLOCK_BYTES)
        return self._known(candidate) + self._rest.get((candidate.format, blocks), guess)

    def _known(self, candidate: Candidate) -> float:
        tokenizer = self.compressor.tokenizer_bytes(candidate.vocabulary_size)
        return self.compressor.model_bytes(candidate) + tokenizer

    def measure(self, candidate: Candidate) -> dict[str, Any]:
        """Exports a candidate, measures its size and, if it fits, its accuracy."""
        estimated = self.estimate(candidate)
        student = self.compressor.make(candidate)
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary) / "candidate"
            export_student(student, folder, [candidate.format], self.lengths)
            model = (folder / candidate.format.path).stat().st_size
            tokenizer = tokenizer_file_bytes(vocabulary_of(student))
            fits = model + tokenizer <= self.limit
            encode = LiteStudent(folder, candidate.format).encode
            accuracy = (
                {language: _accuracy(encode, sides) for language, sides in self.pairs.items()}
                if fits
                else {}
            )
        rest = model + tokenizer - self._known(candidate)
        self._rest[candidate.format, candidate.num_layers] = rest
        self.tried[candidate] = {
            "estimated_bytes": round(estimated),
            "model_bytes": model,
            "tokenizer_bytes": tokenizer,
            "bytes": model + tokenizer,
            "fits": fits,
            **_summary(accuracy),
        }
        return self.tried[candidate]


def _accuracy(
    encode: Callable[[Sequence[str]], np.ndarray], sides: tuple[Sequence[str], Sequence[str]]
) -> float:
    foreign, english = (encode(side) for side in sides)
    return retrieval_accuracy(foreign, english, *sides).mean


def _summary(languages: dict[str, float]) -> dict[str, Any]:
    worst = min(languages, key=languages.__getitem__, default=None)
    return {
        "accuracy": sum(languages.values()) / len(languages) if languages else None,
        "worst": languages[worst] if worst is not None else None,
        "worst_language": worst,
        "languages": languages,
    }


def _nothing_fits(smallest: Candidate, found: dict[str, Any], max_bytes: int) -> InputError:
    return InputError(
        f"`max_bytes` must be at least the size of the smallest student, {found['bytes']:,} bytes "
        f"({_described(smallest)}; {found['tokenizer_bytes']:,} bytes for the tokenizer). "
        f"Received: {max_bytes:,} bytes. Increase the limit, or use fewer languages."
    )


def _described(candidate: Candidate) -> str:
    blocks = f", {candidate.num_layers} blocks" if candidate.num_layers else ""
    return (
        f"{candidate.format}, {candidate.vocabulary_size:,} tokens, table width "
        f"{candidate.table_width}, embedding width {candidate.output_dim}{blocks}"
    )
