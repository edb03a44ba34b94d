"""Reading UTF-8 text: lines, TSV rows and files of translation pairs."""

from __future__ import annotations

import gzip
import os
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from kdkeras.errors import InputError

__all__ = ["normalize", "read_lines", "read_rows", "read_translation_pairs", "read_translations"]

TRANSLATIONS = "foreign<TAB>English"


def normalize(text: str) -> str:
    """Returns the text in NFC, without surrounding white space."""
    return unicodedata.normalize("NFC", text).strip()


def _open(path: Path) -> IO[bytes] | gzip.GzipFile:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def read_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """Yields `(line number, line)` of a UTF-8 file, plain or `.gz`.

    Lines end with LF or CR LF only: other Unicode line separators occur
    inside sentences. A byte order mark is removed.

    Raises:
        InputError: If the file cannot be read or is not UTF-8.
    """
    path, number = Path(path), 0
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, 1):  # noqa: B007 (used in the error)
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
            f"({reason}). Check the path, or copy the file again."
        ) from error


def read_rows(
    path: str | os.PathLike[str], form: str, allow_empty: bool = False
) -> Iterator[tuple[int, list[str]]]:
    """Yields `(line number, cells)` of a TSV file; cells are normalized.

    Args:
        path: The file, UTF-8, plain or `.gz`.
        form: Names of the columns, e.g. `"foreign<TAB>English"`. Further
            columns are ignored.
        allow_empty: Whether empty cells are permitted and blank lines are
            yielded as empty cells. By default, blank lines are skipped, and
            empty cells and files without rows are rejected.

    Raises:
        InputError: If the file cannot be read or has a row of another form;
            the message states the line.
    """
    columns, found = form.count("<TAB>") + 1, allow_empty
    for number, line in read_lines(path):
        blank = not line.strip()
        if blank and not allow_empty:
            continue
        cells = [""] * columns if blank else [normalize(cell) for cell in line.split("\t")]
        if len(cells) < columns or not (allow_empty or all(cells[:columns])):
            raise InputError(
                f"Each row must be `{form}`. Received: {path}, line {number}: {line[:60]!r}. "
                "Correct or remove the row."
            )
        found = True
        yield number, cells[:columns]
    if not found:
        raise InputError(
            f"The file must contain at least one row `{form}`. Received: {path}, empty. "
            "Check the file."
        )


def read_translations(path: str | os.PathLike[str]) -> tuple[list[str], list[str]]:
    """Reads a file of `foreign<TAB>English` rows.

    Args:
        path: The file, UTF-8, plain or `.gz`. Blank lines and further columns
            are ignored.

    Returns:
        The foreign sentences and the English ones, aligned, in NFC.

    Raises:
        InputError: If the file cannot be read, has no rows, or has a row of
            another form; the message states the line.
    """
    rows = [row for _, row in read_rows(path, TRANSLATIONS)]
    return [foreign for foreign, _ in rows], [english for _, english in rows]


def read_translation_pairs(
    folder: str | os.PathLike[str],
) -> dict[str, tuple[list[str], list[str]]]:
    """Reads a folder of translation pairs, one file per language.

    The files are `{language}.tsv` or `{language}.tsv.gz`, UTF-8, with rows
    `foreign<TAB>English`. Blank lines and further columns are ignored.

    Args:
        folder: The folder with the files.

    Returns:
        By language, the foreign sentences and the English ones, aligned, in
        NFC.

    Raises:
        InputError: If there is no such file, or a file has no rows or a row
            of another form; the message states the line.

    Example:
        >>> pairs = read_translation_pairs(sample_folder() / "held_out")  # doctest: +SKIP
        >>> foreign, english = pairs["de"]  # doctest: +SKIP
    """
    folder = Path(folder)
    paths = [*folder.glob("*.tsv"), *folder.glob("*.tsv.gz")] if folder.is_dir() else []
    if not paths:
        raise InputError(
            "A folder of translation pairs must contain files like `de.tsv` with rows "
            f"`{TRANSLATIONS}`. Received: {folder} without any. Check the path."
        )
    return {path.name.partition(".")[0]: read_translations(path) for path in sorted(paths)}
