"""The file formats of parallel text: TSV and Moses, plain or gzip."""

from __future__ import annotations

import dataclasses
import gzip
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import IO

from kdkeras.errors import InputError

__all__ = ["CorpusPath", "ParallelFile", "read_lines", "resolve"]

CorpusPath = str | os.PathLike[str] | tuple[str | os.PathLike[str], str, str]

LANGUAGE = r"[a-z]{2,3}(?:_[A-Za-z]{2,4})?"
TSV_NAME = re.compile(rf"(?:^|.*[._-])({LANGUAGE})-({LANGUAGE})\.(?:tsv|txt)(?:\.gz)?$")
MOSES_NAME = re.compile(rf"(.*?)(?:^|\.)({LANGUAGE})-({LANGUAGE})\.({LANGUAGE})(\.gz)?$")


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Yields `(line number, line)` of a UTF-8 file, plain or `.gz`.

    Lines end at a line feed (a carriage return before it goes too), never at
    other separators that Unicode knows: they occur inside sentences.

    Raises:
        InputError: If the file cannot be read or is not UTF-8.
    """
    path, number = Path(path), 0
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, 1):  # noqa: B007 (told in the error)
                text = raw.decode("utf-8")
                yield number, (text.removeprefix("\ufeff") if number == 1 else text).rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"Text files must be UTF-8. Received: {path}, line {number} "
            f"(byte 0x{error.object[error.start]:02x}). Convert it, e.g. with "
            "iconv -f latin1 -t utf-8."
        ) from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(
            f"The file must exist and be readable. Received: {path}, after line {number} "
            f"({reason}). Check the path, or fetch the file again."
        ) from error


@dataclasses.dataclass(frozen=True)
class ParallelFile:
    """One TSV file, or the two files of a Moses corpus.

    Attributes:
        path: The TSV file, or the Moses file of the source side.
        source_language: Language of the first column.
        translation_language: Language of the second column.
        translation_path: The Moses file of the other side; None for TSV.
    """

    path: Path
    source_language: str
    translation_language: str
    translation_path: Path | None = None

    def rows(self) -> Iterator[tuple[str, str]]:
        """Yields `(source, translation)` as they stand in the file."""
        return self._tsv() if self.translation_path is None else self._moses(self.translation_path)

    def _tsv(self) -> Iterator[tuple[str, str]]:
        for number, line in read_lines(self.path):
            if not line.strip():
                yield "", ""
                continue
            source, tab, rest = line.partition("\t")
            if not tab:
                raise InputError(
                    "Each row must be `source<TAB>translation`. "
                    f"Received: {self.path}, line {number}, without a tab: {line[:60]!r}. "
                    "Correct or remove the row."
                )
            yield source, rest.partition("\t")[0]

    def _moses(self, translation_path: Path) -> Iterator[tuple[str, str]]:
        sides = zip_longest(read_lines(self.path), read_lines(translation_path))
        for number, (source, translation) in enumerate(sides, 1):
            if source is None or translation is None:
                shorter = self.path if source is None else translation_path
                raise InputError(
                    "Both sides of a Moses corpus must have as many lines. "
                    f"Received: {self.path} and {translation_path}; {shorter.name} ends after line "
                    f"{number - 1}. Use the files as they came, or align them again."
                )
            yield source[1], translation[1]


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
            "A Moses corpus has two files. "
            f"Received: {path} without {Path(prefix).name}.{other}{match[5] or ''} beside it. "
            "Put both into one folder."
        )
    if not path.exists():
        raise InputError(f"The file must exist and be readable. Received: {path}. Check the path.")
    raise InputError(
        "A corpus file's name must tell its languages, as in `en-de.tsv.gz` or `corpus.en-de.en`. "
        f"Received: {path}. Rename it, or give (path, source_language, translation_language)."
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
            "A corpus folder must hold files named like `en-de.tsv` or `en-de.tsv.gz`. "
            f"Received: {path} without any. Name the files one by one if they are called otherwise."
        )
    return [_by_name(p) for p in found]


def resolve(files: CorpusPath | Sequence[CorpusPath]) -> list[ParallelFile]:
    """Finds the files and their languages; each corpus once, in given order.

    Raises:
        InputError: If a name tells no languages, or a Moses side is missing.
    """
    # A tuple of three strings is one path with its languages only if the last two are no files.
    if isinstance(files, (str, os.PathLike)) or _is_triple(files):
        files = [files]  # type: ignore[list-item]
    found = [file for entry in files for file in _resolve_one(entry)]  # type: ignore[arg-type]
    if not found:
        raise InputError("A corpus needs at least one file. Received: none. Name the files.")
    return list(dict.fromkeys(found))


def _is_triple(entry: object) -> bool:
    return (
        isinstance(entry, tuple)
        and len(entry) == 3
        and all(isinstance(e, str) and re.fullmatch(LANGUAGE, e) for e in entry[1:])
    )
