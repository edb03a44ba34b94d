"""Writing files so that nothing is ever half-written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdkeras.errors import InputError

__all__ = ["atomic_folder", "atomic_write", "refuse_existing"]


def refuse_existing(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Returns `path` if nothing would be lost by writing it.

    Raises:
        InputError: If it exists and `overwrite` is false.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(
            f"The output must not exist yet. Received: {path}. "
            "Choose another name, or pass overwrite=True (--overwrite)."
        )
    return path


def _parent(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The output's folder must be writable. Received: {path.parent} "
            f"({error.strerror or error}). Choose another folder."
        ) from error
    return path.parent


def _explain(path: Path, error: OSError) -> InputError:
    return InputError(
        f"The output must be writable. Received: {path} ({error.strerror or error}). "
        "Free some space or choose another folder; nothing was changed."
    )


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a temporary path beside `path`; renames it to `path` on success.

    If the body fails the temporary file is removed and `path` is untouched.

    Raises:
        InputError: If the file system refuses (full disk, no permission).
    """
    path = Path(path)
    # The suffix stays: Keras and NumPy choose their format by it.
    temporary = _parent(path) / f".{path.stem}.{os.getpid()}.partial{path.suffix}"
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None and Path(error.filename) not in (temporary, path):
            raise
        raise _explain(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str], overwrite: bool = False) -> Iterator[Path]:
    """Gives a temporary folder beside `path`; renames it to `path` on success.

    Raises:
        InputError: If `path` exists and `overwrite` is false, or the file
            system refuses (full disk, no permission).
    """
    path = refuse_existing(path, overwrite)
    temporary = _parent(path) / f".{path.name}.{os.getpid()}.partial"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is not None and temporary not in Path(error.filename).parents:
            raise
        raise _explain(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
