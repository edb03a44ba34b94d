"""Smaller students for a size search, with estimates of their file sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property

import numpy as np

from kdkeras.compression import factorize_table, truncate
from kdkeras.compression.factorization import largest_rank
from kdkeras.compression.pruning import choose_tokens, vocabulary_of, with_tokens
from kdkeras.data import Vocabulary
from kdkeras.errors import InputError
from kdkeras.export.formats import ExportFormat
from kdkeras.losses import principal_axes
from kdkeras.students import StaticStudent, Student, TransformerStudent

__all__ = ["Candidate", "Compressor", "bits_of", "tokenizer_file_bytes"]

# Fractions of the full width that are tried.
_TABLE_SHARES = (1, 3 / 4, 5 / 8, 1 / 2, 3 / 8, 5 / 16, 1 / 4, 3 / 16, 1 / 8)
_OUTPUT_SHARES = (1, 1 / 2, 1 / 4, 1 / 8)
_MULTIPLE = 8
# Bytes per table row: a float32 scale and an int64 zero point, or the int32 scale of the int8
# table of a static student.
_SCALE_BYTES, _STEP_BYTES = 12, 4
# A smaller student is tried only if one of its sizes is larger by this factor.
_GAIN = 1.1


def bits_of(item: ExportFormat) -> int:
    """Returns the bits per weight of the token table in a TFLite format."""
    return int(re.findall(r"\d+", item)[-1])


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """The sizes and the format of a smaller student.

    Attributes:
        format: The TFLite format.
        vocabulary_size: Number of tokens.
        table_width: Number of columns of the stored token table.
        output_dim: Width of the embedding.
        num_layers: Number of transformer blocks; 0 for a static student.
    """

    format: ExportFormat
    vocabulary_size: int
    table_width: int
    output_dim: int
    num_layers: int

    def makes_redundant(self, other: Candidate) -> bool:
        """Whether `other` has the same format and no size that is 10 % larger or more."""
        sizes, others = astuple(self)[1:], astuple(other)[1:]
        more = any(b >= _GAIN * a and b > a for a, b in zip(sizes, others, strict=True))
        return self.format == other.format and not more


class Compressor:
    """Creates smaller students from a student.

    Args:
        student: The student.
        counts: `(vocabulary_size,)`: how often each token occurs in the sentences
            of the required languages.
        texts: Some of these sentences. Embeddings are reduced to the principal
            axes of their embeddings.

    Attributes:
        used_tokens: Number of tokens that occur or that every vocabulary keeps.
        min_tokens: Number of tokens that every vocabulary keeps.

    Raises:
        InputError: If the student is neither static nor a transformer.
    """

    def __init__(self, student: Student, counts: np.ndarray, texts: Sequence[str]) -> None:
        if not isinstance(student, StaticStudent | TransformerStudent):
            raise InputError(
                "`student` must be a static student or a transformer. Received: "
                f"{type(student).__name__}. Use a StaticStudent or a TransformerStudent."
            )
        self.student, self.counts, self.texts = student, counts, texts
        self.vocabulary = vocabulary_of(student)
        self.used_tokens = len(choose_tokens(self.vocabulary, counts))
        # With this minimum, no token is kept because of its count.
        above_all = int(counts.max()) + 1
        self.min_tokens = len(choose_tokens(self.vocabulary, counts, min_count=above_all))
        self._axes: dict[int, np.ndarray] = {}

    def shapes(self, item: ExportFormat) -> Iterator[Candidate]:
        """Yields all combinations of widths and depth with all used tokens, largest first."""
        student = self.student
        static = isinstance(student, StaticStudent)
        depths = [0] if static else range(student.num_layers, 0, -1)
        for num_layers in depths:
            for output_dim in _widths(student.output_dim, _OUTPUT_SHARES):
                # The table and the projection of a static student are one linear map, so the
                # table needs at most as many columns as the embedding has.
                full = min(self._full_width, output_dim) if static else self._full_width
                for table_width in _widths(full, _TABLE_SHARES):
                    yield Candidate(
                        format=item,
                        vocabulary_size=self.used_tokens,
                        table_width=table_width,
                        output_dim=output_dim,
                        num_layers=num_layers,
                    )

    @property
    def _full_width(self) -> int:
        student = self.student
        if isinstance(student, StaticStudent):
            return largest_rank(student)
        return student.table_rank or student.hidden_dim

    def model_bytes(self, candidate: Candidate) -> float:
        """Returns the estimated size of a candidate's weights in bytes."""
        bits = bits_of(candidate.format)
        scale = 0
        if bits <= 8:
            gathered = bits == 8 and isinstance(self.student, StaticStudent)
            scale = _STEP_BYTES if gathered else _SCALE_BYTES
        row = candidate.table_width * bits / 8 + scale
        # Formats with fewer than 8 bits apply only to tables.
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
        """Returns the size of the tokenizer file, interpolated between known sizes."""
        sizes, found = self._tokenizer_sizes
        return float(np.interp(vocabulary_size, sizes, found))

    @cached_property
    def _tokenizer_sizes(self) -> tuple[list[int], list[int]]:
        sizes = sorted({self.min_tokens, self.used_tokens, self.vocabulary.size})
        subsets = [self.vocabulary.subset(self._tokens(size)) for size in sizes]
        return sizes, [tokenizer_file_bytes(subset) for subset in subsets]

    def _tokens(self, size: int) -> list[int]:
        if size == self.vocabulary.size:
            return list(range(size))
        return choose_tokens(self.vocabulary, self.counts, size=size)

    def make(self, candidate: Candidate) -> Student:
        """Creates the student of a candidate."""
        ids = self._tokens(candidate.vocabulary_size)
        student = with_tokens(self.student, ids)
        if isinstance(student, TransformerStudent):
            student = student.truncated(candidate.num_layers)
        if candidate.output_dim < student.output_dim:
            axes = self._principal_axes(candidate.num_layers)
            student = truncate(student, candidate.output_dim, axes)
        if isinstance(student, StaticStudent) or candidate.table_width < self._full_width:
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
    """Returns the size of the file that a phone needs: `sentencepiece.model` or `vocab.txt`."""
    return sum(len(vocabulary.files[name]) for name in vocabulary.required_files)


def _widths(full: int, shares: Sequence[float]) -> list[int]:
    """Returns widths, largest first; all but the full width are multiples of 8."""
    rounded = {int(full * share) // _MULTIPLE * _MULTIPLE for share in shares[1:]}
    return sorted({full, *rounded} - {0}, reverse=True)
