"""Loading trained students: files, exported folders, and released students by name."""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import keras

# These register all classes that a saved file can refer to.
import kdkeras.distillation
import kdkeras.layers
import kdkeras.losses
import kdkeras.optimizers
import kdkeras.students
from kdkeras.errors import InputError

if TYPE_CHECKING:
    from kdkeras.students import Student

__all__ = ["from_preset", "load"]


def from_preset(name_or_path: str | os.PathLike[str]) -> Student:
    """Loads a trained student as a Keras model that can be trained further.

    A released or exported `StaticStudent` is rebuilt from its TFLite file: its
    weights are the stored ones, dequantized to float32, with the token weights
    multiplied into the table. Use `load` if you only need embeddings, and
    `kdkeras.students.build_student` for an untrained student.

    Args:
        name_or_path: The name of a folder in `savedmodels/`, e.g.
            `"static-multilingual-28"`, the folder of an exported
            `StaticStudent`, or a `.keras` file of any student.

    Returns:
        The student, with its vocabulary.

    Raises:
        InputError: If there is no such file or name, it cannot be read, the
            file holds a model that is not a student, or the folder holds a
            student that cannot be rebuilt (a transformer).

    Example:
        ```python
        student = kdkeras.from_preset("static-multilingual-28")
        student.encode(["Guten Morgen", "おはよう"]).shape  # (2, 384)
        ```
    """
    if Path(name_or_path).suffix != ".keras":
        from kdkeras.export.lite import find_exported
        from kdkeras.export.rebuilding import rebuild_student

        return rebuild_student(find_exported(name_or_path))
    model = load(name_or_path)
    if not isinstance(model, kdkeras.students.Student):
        raise InputError(
            f"A preset must be a student. Received: {name_or_path} with a "
            f"{type(model).__name__}. Use kdkeras.load, and `.student` of a Distiller."
        )
    return model


def load(name_or_path: str | os.PathLike[str]) -> Any:
    """Loads a model for inference: a saved one, or a released student by name.

    `.keras` files are read in Keras' safe mode, so that a file of unknown origin
    cannot run code. Use `from_preset` to train a released student.

    Args:
        name_or_path: A `.keras` file, the folder of an exported student, or the
            name of a folder in `savedmodels/`, e.g. `"static-multilingual-28"`.

    Returns:
        The Keras model (student or Distiller) of a `.keras` file, or a
        `kdkeras.export.LiteStudent` for an exported folder or a released name.
        Students of both kinds have `.encode(texts)`.

    Raises:
        InputError: If there is no such file or name, or it cannot be read.
    """
    path = Path(name_or_path)
    if path.suffix != ".keras":
        from kdkeras.export.lite import load_lite_student

        return load_lite_student(name_or_path)
    if not path.is_file():
        raise InputError(f"The model must be an existing file. Received: {path}. Check the path.")
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
