"""Smaller students that a size search may try, and what they would weigh."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property

import numpy as np

from kdkeras.compression import factorize_table, truncate
from kdkeras.compression.factorization import largest_rank
from kdkeras.compression.pruning import choose_tokens, with_tokens
from kdkeras.compression.rebuilding import vocabulary_of
from kdkeras.data import Vocabulary
from kdkeras.errors import InputError
from kdkeras.export.formats import ExportFormat
from kdkeras.losses import principal_axes
from kdkeras.students import StaticStudent, Student, TransformerStudent

__all__ = ["Candidate", "Compressor", "bits_of", "tokenizer_file_bytes"]

# Shares of the whole width; the accuracy between two of them is between theirs.
_TABLE_SHARES = (1, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 5 / 16, 1 / 4, 3 / 16, 1 / 8)
_OUTPUT_SHARES = (1, 1 / 2, 1 / 4, 1 / 8)
_MULTIPLE = 8
# float32 scale and int64 zero point; of an int8 table that a static student gathers, an int32.
_BYTES_A_SCALE, _BYTES_A_STEP = 12, 4
# A gain below this says nothing: a smaller student is tried if it has more of something.
_GAIN = 1.1


def bits_of(item: ExportFormat) -> int:
    """Bits of a weight of the token table in a TFLite format, by its name."""
    return int(re.findall(r"\d+", item)[-1])


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A student of other sizes, in one format.

    Attributes:
        format: The TFLite format.
        vocabulary_size: Tokens kept.
        table_width: Columns of the stored token table.
        output_dim: Width of the embedding.
        num_layers: Blocks of a transformer; 0 of a static student.
    """

    format: ExportFormat
    vocabulary_size: int
    table_width: int
    output_dim: int
    num_layers: int

    def makes_needless(self, other: Candidate) -> bool:
        """Whether `other` is a smaller student with next to nothing more of anything."""
        mine, theirs = astuple(self)[1:], astuple(other)[1:]
        more = any(b >= _GAIN * a and b > a for a, b in zip(mine, theirs, strict=True))
        return self.format == other.format and not more


class Compressor:
    """Makes a student's candidates.

    Args:
        student: The student.
        counts: `(vocabulary_size,)`, how often its languages use each token.
        texts: Some of their sentences, in whose principal axes embeddings are cut.

    Attributes:
        used_tokens: Tokens that the languages use, or that stay in any case.
        least_tokens: Tokens that stay in any case.
    """

    def __init__(self, student: Student, counts: np.ndarray, texts: Sequence[str]) -> None:
        if not isinstance(student, StaticStudent | TransformerStudent):
            raise InputError(
                "A size is searched for a static student or a transformer. Received: "
                f"{type(student).__name__}. Give one of kdkeras.students."
            )
        self.student, self.counts, self.texts = student, counts, texts
        self.vocabulary = vocabulary_of(student)
        self.used_tokens = len(choose_tokens(self.vocabulary, counts))
        # No token is used as often as this.
        never = int(counts.max()) + 1
        self.least_tokens = len(choose_tokens(self.vocabulary, counts, min_count=never))
        self._axes: dict[int, np.ndarray] = {}

    def shapes(self, item: ExportFormat) -> Iterator[Candidate]:
        """Yields every choice of widths and depth with all used tokens, large ones first."""
        student = self.student
        static = isinstance(student, StaticStudent)
        depths = [0] if static else range(student.num_layers, 0, -1)
        for num_layers in depths:
            for output_dim in _widths(student.output_dim, _OUTPUT_SHARES):
                # A static student's table and projection are one map: to fewer components it
                # needs no more columns than these.
                whole = min(self._whole_width, output_dim) if static else self._whole_width
                for table_width in _widths(whole, _TABLE_SHARES):
                    yield Candidate(
                        format=item,
                        vocabulary_size=self.used_tokens,
                        table_width=table_width,
                        output_dim=output_dim,
                        num_layers=num_layers,
                    )

    @property
    def _whole_width(self) -> int:
        student = self.student
        if isinstance(student, StaticStudent):
            return largest_rank(student)
        return student.table_rank or student.hidden_dim

    def model_bytes(self, candidate: Candidate) -> float:
        """What the weights of a candidate take, estimated."""
        bits = bits_of(candidate.format)
        scale = 0
        if bits <= 8:
            gathered = bits == 8 and isinstance(self.student, StaticStudent)
            scale = _BYTES_A_STEP if gathered else _BYTES_A_SCALE
        row = candidate.table_width * bits / 8 + scale
        # Formats below 8 bits are for tables.
        return candidate.vocabulary_size * row + self._other_weights(candidate) * max(bits, 8) / 8

    def _other_weights(self, candidate: Candidate) -> int:
        student, width, out = self.student, candidate.table_width, candidate.output_dim
        if isinstance(student, StaticStudent):
            return (width + 1) * out
        hidden = student.hidden_dim
        total = (student.sequence_length + 2) * hidden
        total += candidate.num_layers * student.blocks[0].count_params()
        total += width * hidden if width < hidden else 0
        return total + ((hidden + 1) * out if student.project or out < hidden else 0)

    def tokenizer_bytes(self, vocabulary_size: int) -> float:
        """What the tokenizer's file takes, between two sizes whose files are known."""
        sizes, found = self._tokenizer_sizes
        return float(np.interp(vocabulary_size, sizes, found))

    @cached_property
    def _tokenizer_sizes(self) -> tuple[list[int], list[int]]:
        sizes = sorted({self.least_tokens, self.used_tokens, self.vocabulary.size})
        subsets = [self.vocabulary.subset(self._tokens(size)) for size in sizes]
        return sizes, [tokenizer_file_bytes(subset) for subset in subsets]

    def _tokens(self, size: int) -> list[int]:
        if size == self.vocabulary.size:
            return list(range(size))
        return choose_tokens(self.vocabulary, self.counts, size=size)

    def make(self, candidate: Candidate) -> Student:
        """Returns the student of a candidate."""
        ids = self._tokens(candidate.vocabulary_size)
        student = with_tokens(self.student, ids)
        if isinstance(student, TransformerStudent):
            student = student.truncated(candidate.num_layers)
        if candidate.output_dim < student.output_dim:
            axes = self._principal_axes(candidate.num_layers)
            student = truncate(student, candidate.output_dim, axes)
        if isinstance(student, StaticStudent) or candidate.table_width < self._whole_width:
            student = factorize_table(student, candidate.table_width, self.counts[ids] + 1)
        return student

    def _principal_axes(self, num_layers: int) -> np.ndarray:
        if num_layers not in self._axes:
            student = self.student
            if isinstance(student, TransformerStudent):
                student = student.truncated(num_layers)
            self._axes[num_layers] = principal_axes(student.encode(self.texts))
        return self._axes[num_layers]


def tokenizer_file_bytes(vocabulary: Vocabulary) -> int:
    """Bytes of the one file that a phone needs: `sentencepiece.model` or `vocab.txt`."""
    return sum(len(vocabulary.files[name]) for name in vocabulary.required_files)


def _widths(whole: int, shares: Sequence[float]) -> list[int]:
    """Widths, the largest first; multiples of 8, but for the whole one."""
    rounded = {int(whole * share) // _MULTIPLE * _MULTIPLE for share in shares[1:]}
    return sorted({whole, *rounded} - {0}, reverse=True)
