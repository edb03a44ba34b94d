"""Loading trained students: from a file, or a released one by its name."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import Any

import keras

# Registers every class that a file may name.
import kdkeras.distillation
import kdkeras.layers
import kdkeras.losses
import kdkeras.optimizers
import kdkeras.students  # noqa: F401
from kdkeras.errors import InputError

__all__ = ["load"]


def load(name_or_path: str | os.PathLike[str]) -> Any:
    """Loads a saved student (or Distiller), or a released student by name.

    Files are read in Keras' safe mode: a file from a stranger cannot run code.

    Args:
        name_or_path: A `.keras` file, a folder of an exported student, or the
            name of a folder in `savedmodels/`.

    Returns:
        The Keras model of a `.keras` file; a `LiteStudent` for an exported
        folder or a released name. Both have `.encode(texts)`.

    Raises:
        InputError: If there is no such file or name, or it cannot be read.
    """
    path = Path(name_or_path)
    if path.suffix != ".keras":
        from kdkeras.export.lite import load_lite_student

        return load_lite_student(name_or_path)
    if not path.is_file():
        raise InputError(f"The model must be an existing file. Received: {path}.")
    if not zipfile.is_zipfile(path):
        raise InputError(
            f"The model must be a `.keras` archive. Received: {path}, which is damaged or "
            "another format. Save it again with student.save('name.keras')."
        )
    try:
        return keras.saving.load_model(path, safe_mode=True)
    except InputError:
        raise
    except Exception as error:  # Keras raises a dozen types for a bad archive.
        reason = " ".join(str(error).split())
        raise InputError(
            f"The model must be readable in Keras' safe mode. Received: {path} "
            f"({type(error).__name__}: {reason}). Save it again with this version of kdkeras."
        ) from error
