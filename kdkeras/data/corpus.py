"""Reading parallel corpora into groups of a source sentence and its translations."""

from __future__ import annotations

import dataclasses
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from kdkeras.data.corpus_files import CorpusPath, ParallelFile, resolve
from kdkeras.data.text_files import normalize, read_lines
from kdkeras.errors import InputError

__all__ = ["CorpusReport", "SentenceGroup", "read_corpus", "without_excluded"]


@dataclasses.dataclass(frozen=True)
class SentenceGroup:
    """A source sentence with all its translations.

    Attributes:
        source: The source sentence, in NFC.
        source_language: Language code of the source sentence, e.g. `"en"`.
        translations: The translations, in NFC; distinct per language.
        languages: Language code of each translation.
    """

    source: str
    source_language: str
    translations: tuple[str, ...]
    languages: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class CorpusReport:
    """The counts of a corpus that was read.

    Attributes:
        rows: Number of rows read from all files.
        kept: Number of pairs kept, without duplicates.
        groups: Number of source sentences kept.
        dropped: Number of rows dropped by reason: `empty`, `over_long`,
            `duplicate`, `excluded`.
        pairs: Number of pairs kept by language of the translation.
    """

    rows: int
    kept: int
    groups: int
    dropped: dict[str, int]
    pairs: dict[str, int]

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as a JSON-serializable dictionary."""
        return dataclasses.asdict(self)


class _Collector:
    """Merges rows into groups and counts the dropped rows."""

    def __init__(self, excluded: frozenset[str], max_characters: int) -> None:
        self._excluded = excluded
        self._max_characters = max_characters
        self._groups: dict[tuple[str, str], dict[tuple[str, str], None]] = {}
        self.rows = 0
        self.dropped: Counter[str] = Counter(empty=0, over_long=0, duplicate=0, excluded=0)

    def add(self, source: str, translation: str, file: ParallelFile) -> None:
        self.rows += 1
        if reason := self._reason(source, translation):
            self.dropped[reason] += 1
            return
        group = self._groups.setdefault((file.source_language, source), {})
        if (file.translation_language, translation) in group:
            self.dropped["duplicate"] += 1
        group[file.translation_language, translation] = None

    def _reason(self, source: str, translation: str) -> str | None:
        if not source or not translation:
            return "empty"
        if max(len(source), len(translation)) > self._max_characters:
            return "over_long"
        if source in self._excluded or translation in self._excluded:
            return "excluded"
        return None

    def groups(self) -> list[SentenceGroup]:
        return [
            SentenceGroup(
                source,
                source_language,
                tuple(translation for _, translation in pairs),
                tuple(language for language, _ in pairs),
            )
            for (source_language, source), pairs in self._groups.items()
        ]


def _excluded_sentences(files: Iterable[str | os.PathLike[str]]) -> frozenset[str]:
    """Returns all cells of the files."""
    cells: set[str] = set()
    for path in files:
        for _, line in read_lines(path):
            cells.update(normalize(cell) for cell in line.split("\t"))
    return frozenset(cells - {""})


def without_excluded(
    groups: Iterable[SentenceGroup], exclude: Iterable[str | os.PathLike[str]]
) -> list[SentenceGroup]:
    """Removes the pairs of which either side is a cell of a file in `exclude`."""
    excluded = _excluded_sentences(exclude)
    if not excluded:
        return list(groups)
    kept = []
    for group in groups:
        pairs = [
            (translation, language)
            for translation, language in zip(group.translations, group.languages, strict=True)
            if normalize(translation) not in excluded
        ]
        if pairs and normalize(group.source) not in excluded:
            translations, languages = zip(*pairs, strict=True)
            kept.append(dataclasses.replace(group, translations=translations, languages=languages))
    return kept


def _count_pairs(groups: list[SentenceGroup]) -> dict[str, int]:
    counts = Counter(language for group in groups for language in group.languages)
    return dict(sorted(counts.items()))


def _check_counts(pairs: dict[str, int], min_pairs: int, names: str) -> None:
    few = {language: count for language, count in pairs.items() if count < min_pairs}
    if few:
        listed = ", ".join(f"{language} ({count})" for language, count in few.items())
        raise InputError(
            f"Each language must have at least min_pairs={min_pairs} pairs. Received: {listed} "
            f"in {names}. Omit these languages, add data, or lower min_pairs."
        )


def read_corpus(
    files: CorpusPath | Sequence[CorpusPath],
    *,
    exclude: Iterable[str | os.PathLike[str]] = (),
    max_characters: int = 1000,
    min_pairs: int = 10,
) -> tuple[list[SentenceGroup], CorpusReport]:
    """Reads parallel sentences and merges them into groups.

    All files are UTF-8, plain or `.gz`; text is normalized to NFC.

    - TSV files have rows `source<TAB>translation` and the languages in their
      names: `en-de.tsv.gz`. Further columns are ignored.
    - Moses corpora are two files with aligned lines, `corpus.en-de.en` and
      `corpus.en-de.de`; pass either of them.
    - A folder stands for all TSV files in it.

    Args:
        files: Paths, or tuples `(path, source_language, translation_language)`
            for names without languages. For a Moses corpus, the path of such
            a tuple has no language ending.
        exclude: Test sets, TSV with any number of columns. Pairs of which
            either side is a cell of one of them are removed.
        max_characters: Maximum length of a sentence in characters, default
            1000.
        min_pairs: Minimum number of pairs per language, default 10. Fewer
            pairs cannot be learned, but would be repeated often.

    Returns:
        The groups in the order of their first occurrence, and the counts.

    Raises:
        InputError: If a file is missing, is not UTF-8 or has a row without a
            tab (the message states the line), the sides of a Moses corpus
            differ in length, no pair is left, or a language has too few
            pairs.
    """
    resolved = resolve(files)
    collector = _Collector(_excluded_sentences(exclude), max_characters)
    for file in resolved:
        for source, translation in file.rows():
            collector.add(source, translation, file)
    groups = collector.groups()
    names = ", ".join(dict.fromkeys(str(file.path) for file in resolved[:3]))
    names += " …" if len(resolved) > 3 else ""
    if not groups:
        dropped = ", ".join(f"{n} {reason}" for reason, n in collector.dropped.items() if n)
        raise InputError(
            "A corpus must contain at least one pair of sentences. "
            f"Received: {collector.rows} rows in {names} (dropped: {dropped or 'none'}). "
            "Check the files, `exclude` and `max_characters`."
        )
    pairs = _count_pairs(groups)
    _check_counts(pairs, min_pairs, names)
    report = CorpusReport(
        rows=collector.rows,
        kept=sum(pairs.values()),
        groups=len(groups),
        dropped=dict(collector.dropped),
        pairs=pairs,
    )
    return groups, report
