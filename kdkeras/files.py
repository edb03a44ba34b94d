"""Writing files and folders atomically."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kdkeras.errors import InputError

__all__ = ["atomic_folder", "atomic_write", "refuse_existing", "refuse_unwritable"]


def refuse_existing(path: str | os.PathLike[str], overwrite: bool) -> Path:
    """Returns `path` if it may be written.

    Raises:
        InputError: If it exists and `overwrite` is false.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise InputError(
            f"The output must not exist yet. Received: {path}. "
            "Choose another name, or pass overwrite=True."
        )
    return path


def refuse_unwritable(path: str | os.PathLike[str]) -> None:
    """Refuses a file that cannot be written, before the work whose result it is for.

    Raises:
        InputError: If its folder cannot be written, or it is a folder itself.
    """
    path = Path(path)
    probe = _parent(path) / f".{path.name}.{os.getpid()}.partial"
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        probe.touch()
    except OSError as error:
        raise _explain(path, error) from error
    finally:
        probe.unlink(missing_ok=True)


def _parent(path: Path) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"The folder of the output must be writable. Received: {path.parent} "
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
    """Yields a temporary path in the same folder; renames it to `path` on success.

    If the body fails, the temporary file is removed and `path` is unchanged.

    Raises:
        InputError: If the file cannot be written (full disk, no permission).
    """
    path = Path(path)
    # The suffix is kept because Keras and NumPy derive the file format from it.
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
    """Yields a temporary folder next to `path`; renames it to `path` on success.

    If the body fails, the temporary folder is removed and `path` is unchanged.

    Raises:
        InputError: If `path` exists and `overwrite` is false, or the folder
            cannot be written (full disk, no permission).
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
