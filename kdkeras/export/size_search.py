"""The best small student under a limit of bytes."""

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
from kdkeras.compression.rebuilding import vocabulary_of
from kdkeras.data.vocabularies import sample_sentences
from kdkeras.errors import InputError
from kdkeras.evaluation.metrics import retrieval_accuracy
from kdkeras.export.candidates import Candidate, Compressor, tokenizer_file_bytes
from kdkeras.export.exporter import DEFAULT_SEQUENCE_LENGTHS, export_student
from kdkeras.export.formats import DEFAULT_FORMATS, ExportFormat
from kdkeras.export.lite import LiteStudent
from kdkeras.students import Student

__all__ = ["FittedStudent", "fit_size"]

Pairs = Mapping[str, tuple[Sequence[str], Sequence[str]]]
Progress = Callable[[str], None]

# Sentences whose embeddings' principal axes are computed.
_FOR_AXES = 4_000
# What a signature's graph takes, and each block in it, before the first was exported.
_BYTES_A_GRAPH = 4_000
_BYTES_A_BLOCK = 15_000
# So many more tokens that fit are worth another export.
_MORE = 1.01


@dataclass(frozen=True, kw_only=True)
class FittedStudent:
    """What a size search found.

    Attributes:
        student: The smaller student, to be exported.
        format: The format that it fits in.
        record: What was tried, as JSON: see `fit_size`.
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
    progress: Progress | None = None,
) -> FittedStudent:
    """Finds the best smaller student whose files are under a limit.

    Widths of the token table and of the embedding, the depth of a transformer and
    the TFLite formats are combined; each combination keeps as many of the tokens
    that the sentences use as fit. A combination that is smaller than one that fits,
    and has next to nothing more of anything, is not tried. What is tried is
    exported, weighed, and searched with: the best one finds the most translations,
    mean over the languages.

    The size is that of the TFLite file and of the one tokenizer file that a phone
    needs (`sentencepiece.model` or `vocab.txt`) together.

    Args:
        student: A static student or a transformer, with a vocabulary.
        max_bytes: The limit.
        pairs: Language to `(foreign sentences, English sentences)` that decide which
            is the best.
        sentences: Sentences of these languages and English, none of them in `pairs`:
            they say which tokens are needed.
        prune: Whether tokens that no sentence uses go in any case; else they stay if
            there is room.
        formats: What may be chosen; of these, TFLite formats that hold the float32
            weights only where there is no other.
        sequence_lengths: As for `export`.
        progress: Called with one line at each step.

    Returns:
        The student, its format, and the record:

        ```
        {"limit_bytes": int, "languages": [str],
         "before": {"vocabulary_size", "accuracy", "worst", "worst_language", "languages"},
         "tried": [{"format", "vocabulary_size", "table_width", "output_dim", "num_layers",
                    "estimated_bytes", "model_bytes", "tokenizer_bytes", "bytes", "fits",
                    "chosen", "accuracy", "worst", "worst_language", "languages"}]}
        ```

        Accuracies are shares in [0, 1]: the mean and the worst of the languages;
        None where a combination turned out not to fit.

    Raises:
        InputError: If nothing fits (the message names the smallest size), no format
            is one of TFLite, or the student cannot be made smaller.
    """
    chosen = _small_formats(formats)
    texts = sample_sentences(iter(sentences), seed=0)
    counts = token_counts(vocabulary_of(student), texts)
    compressor = Compressor(student, counts, texts[:: -(-len(texts) // _FOR_AXES)])
    say = progress or (lambda line: None)
    search = _Search(compressor, max_bytes, pairs, sequence_lengths, say)
    search.try_all(chosen, prune)
    if search.best is None:
        # Weighed, it tells how far the estimates are off.
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
            "A size is that of a TFLite file. Received: no TFLite format. "
            "Add tflite_int8 to the formats."
        )
    # The same student is smaller in them, and within its gate as good.
    return [item for item in lite if not item.is_exact] or lite


class _Search:
    """Tries candidates, and remembers what they gave."""

    def __init__(
        self,
        compressor: Compressor,
        limit: int,
        pairs: Pairs,
        sequence_lengths: Iterable[int] | None,
        say: Progress,
    ) -> None:
        self.compressor, self.limit, self.pairs, self.say = compressor, limit, pairs, say
        self.lengths = None if sequence_lengths is None else list(sequence_lengths)
        longest = compressor.student.sequence_length
        shorter = [n for n in self.lengths or DEFAULT_SEQUENCE_LENGTHS if n < longest]
        self._signatures = len(shorter) + 1
        self.tried: dict[Candidate, dict[str, Any]] = {}
        # By format and depth, what is not in the weights: graphs, and the guess's error.
        self._rest: dict[tuple[ExportFormat, int], float] = {}

    @property
    def best(self) -> Candidate | None:
        """What finds the most translations; of equals, the smallest."""

        def worth(candidate: Candidate) -> tuple[float, float, int]:
            found = self.tried[candidate]
            return found["accuracy"], found["worst"], -found["bytes"]

        fitting = [candidate for candidate, found in self.tried.items() if found["fits"]]
        return max(fitting, key=worth, default=None)

    def try_all(self, formats: Sequence[ExportFormat], prune: bool) -> None:
        """Tries every shape in every format."""
        for item in formats:
            for shape in self.compressor.shapes(item):
                if not prune:
                    self.try_whole(shape)
                self.try_filled(shape)

    def measure_smallest(self, formats: Sequence[ExportFormat]) -> Candidate:
        """Weighs the smallest candidate of all."""
        least = self.compressor.least_tokens
        shapes = (
            replace(shape, vocabulary_size=least)
            for item in formats
            for shape in self.compressor.shapes(item)
        )
        smallest = min(shapes, key=self.estimate)
        self.measure(smallest)
        return smallest

    def try_whole(self, shape: Candidate) -> None:
        """Tries a shape with the whole vocabulary, if that fits."""
        whole = replace(shape, vocabulary_size=self.compressor.vocabulary.size)
        if self.estimate(whole) <= self.limit and not self._is_needless(whole):
            self.measure(whole)

    def try_filled(self, shape: Candidate) -> None:
        """Tries a shape with as many of the used tokens as fit."""
        candidate = self._filled(shape)
        if candidate is not None and self._is_needless(candidate):
            return
        while candidate is not None:
            fits, tokens = self.measure(candidate)["fits"], candidate.vocabulary_size
            # Its file was weighed, and tells how far the estimate is off.
            most = shape.vocabulary_size if fits else tokens - 1
            candidate = self._filled(replace(shape, vocabulary_size=most))
            if fits and candidate is not None and candidate.vocabulary_size < _MORE * tokens:
                return

    def _is_needless(self, candidate: Candidate) -> bool:
        return any(
            other.makes_needless(candidate) for other, found in self.tried.items() if found["fits"]
        )

    def _filled(self, shape: Candidate) -> Candidate | None:
        """The shape with the most tokens that fit; None if not even the fewest do."""
        sizes = range(self.compressor.least_tokens, shape.vocabulary_size + 1)
        fitting = bisect_right(
            sizes,
            self.limit,
            key=lambda size: math.ceil(self.estimate(replace(shape, vocabulary_size=size))),
        )
        return replace(shape, vocabulary_size=sizes[fitting - 1]) if fitting else None

    def estimate(self, candidate: Candidate) -> float:
        """Bytes of both files, before they are written."""
        blocks = candidate.num_layers
        guess = self._signatures * (_BYTES_A_GRAPH + blocks * _BYTES_A_BLOCK)
        return self._known(candidate) + self._rest.get((candidate.format, blocks), guess)

    def _known(self, candidate: Candidate) -> float:
        tokenizer = self.compressor.tokenizer_bytes(candidate.vocabulary_size)
        return self.compressor.model_bytes(candidate) + tokenizer

    def measure(self, candidate: Candidate) -> dict[str, Any]:
        """Exports a candidate; weighs it and, if it fits, searches with it."""
        estimated = self.estimate(candidate)
        self.say(f"Trying {_described(candidate)}")
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
        f"The limit must leave room for the smallest student, {found['bytes']:,} bytes "
        f"({_described(smallest)}; the tokenizer takes {found['tokenizer_bytes']:,} of them). "
        f"Received: {max_bytes:,} bytes. Allow more, or fewer languages."
    )


def _described(candidate: Candidate) -> str:
    blocks = f", {candidate.num_layers} blocks" if candidate.num_layers else ""
    return (
        f"{candidate.format}, {candidate.vocabulary_size:,} tokens, table "
        f"{candidate.table_width} wide, embedding {candidate.output_dim}{blocks}"
    )
