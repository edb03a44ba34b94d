"""File formats of parallel corpora: TSV and Moses, plain or gzip."""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

from kdkeras.data.text_files import normalize, read_lines, read_rows
from kdkeras.errors import InputError

__all__ = ["CorpusPath", "ParallelFile", "resolve"]

CorpusPath = str | os.PathLike[str] | tuple[str | os.PathLike[str], str, str]

FORM = "source<TAB>translation"
LANGUAGE = r"[a-z]{2,3}(?:_[A-Za-z]{2,4})?"
TSV_NAME = re.compile(rf"(?:^|.*[._-])({LANGUAGE})-({LANGUAGE})\.(?:tsv|txt)(?:\.gz)?$")
MOSES_NAME = re.compile(rf"(.*?)(?:^|\.)({LANGUAGE})-({LANGUAGE})\.({LANGUAGE})(\.gz)?$")


@dataclasses.dataclass(frozen=True)
class ParallelFile:
    """A TSV file, or the two files of a Moses corpus.

    Attributes:
        path: The TSV file, or the Moses file of the source side.
        source_language: Language of the first column.
        translation_language: Language of the second column.
        translation_path: The Moses file of the translation side; None for TSV.
    """

    path: Path
    source_language: str
    translation_language: str
    translation_path: Path | None = None

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yields `(source, translation)` in NFC; either may be empty."""
        if self.translation_path is not None:
            yield from self._moses(self.translation_path)
        else:
            for _, (source, translation) in read_rows(self.path, FORM, allow_empty=True):
                yield source, translation

    def _moses(self, translation_path: Path) -> Iterator[tuple[str, str]]:
        sides = zip_longest(read_lines(self.path), read_lines(translation_path))
        for number, (source, translation) in enumerate(sides, 1):
            if source is None or translation is None:
                shorter = self.path if source is None else translation_path
                raise InputError(
                    "Both sides of a Moses corpus must have the same number of lines. "
                    f"Received: {self.path} and {translation_path}; {shorter.name} ends after line "
                    f"{number - 1}. Use the original files, or align them again."
                )
            yield normalize(source[1]), normalize(translation[1])


def _moses_files(prefix: str, source: str, translation: str) -> ParallelFile | None:
    for ending in ("", ".gz"):
        sides = [Path(f"{prefix}.{language}{ending}") for language in (source, translation)]
        if all(side.exists() for side in sides):
            return ParallelFile(sides[0], source, translation, sides[1])
    return None


def _with_languages(path: Path, source: str, translation: str) -> ParallelFile:
    if not path.is_file() and (moses := _moses_files(str(path), source, translation)):
        return moses
    return ParallelFile(path, source, translation)


def _by_name(path: Path) -> ParallelFile:
    if match := TSV_NAME.match(path.name):
        return ParallelFile(path, match[1], match[2])
    match = MOSES_NAME.match(path.name)
    if match and match[4] in (match[2], match[3]):
        prefix = str(path).removesuffix(match[5] or "").removesuffix(f".{match[4]}")
        if moses := _moses_files(prefix, match[2], match[3]):
            return moses
        other = match[3] if match[4] == match[2] else match[2]
        raise InputError(
            "A Moses corpus must have two files. "
            f"Received: {path} without {Path(prefix).name}.{other}{match[5] or ''} in the same "
            "folder. Put both in one folder."
        )
    if not path.exists():
        raise InputError(f"The file must exist and be readable. Received: {path}. Check the path.")
    raise InputError(
        "The name of a corpus file must contain its languages, e.g. `en-de.tsv.gz` or "
        "`corpus.en-de.en`. "
        f"Received: {path}. Rename it, or pass (path, source_language, translation_language)."
    )


def _resolve_one(entry: CorpusPath) -> list[ParallelFile]:
    if isinstance(entry, tuple):
        return [_with_languages(Path(entry[0]), entry[1], entry[2])]
    path = Path(entry)
    if not path.is_dir():
        return [_by_name(path)]
    found = [p for p in sorted(path.iterdir()) if TSV_NAME.match(p.name)]
    if not found:
        raise InputError(
            "A corpus folder must contain files named like `en-de.tsv` or `en-de.tsv.gz`. "
            f"Received: {path} without any. Rename the files, or pass them one by one."
        )
    return [_by_name(p) for p in found]


def resolve(files: CorpusPath | Sequence[CorpusPath]) -> list[ParallelFile]:
    """Finds the files and their languages; each corpus once, in the order of `files`.

    Raises:
        InputError: If a name does not contain languages, or a Moses side is
            missing.
    """
    # A tuple of three strings is one entry if the last two look like languages.
    if isinstance(files, (str, os.PathLike)) or _is_triple(files):
        files = [files]  # type: ignore[list-item]
    found = [file for entry in files for file in _resolve_one(entry)]  # type: ignore[arg-type]
    if not found:
        raise InputError("A corpus needs at least one file. Received: none. Pass the files.")
    return list(dict.fromkeys(found))


def _is_triple(entry: object) -> bool:
    return (
        isinstance(entry, tuple)
        and len(entry) == 3
        and all(isinstance(e, str) and re.fullmatch(LANGUAGE, e) for e in entry[1:])
    )
