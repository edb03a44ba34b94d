"""Finding the encoder that a command is given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdkeras.cli.native_logs import quiet_native_logs
from kdkeras.errors import InputError

__all__ = ["load_encoder", "load_student"]


def load_encoder(name: str) -> Any:
    """Loads a student, or a teacher: anything with `.encode(texts)`.

    Raises:
        InputError: If it is another kind of model.
    """
    if name.startswith("hf://") or (Path(name) / "modules.json").is_file():
        from kdkeras import teachers

        return teachers.load(name)
    from kdkeras import load
    from kdkeras.export import LiteStudent

    with quiet_native_logs():
        model = load(name)
        if isinstance(model, LiteStudent):
            model.encode([""])  # LiteRT tells which delegate it makes, at the first sentence.
    if not hasattr(model, "encode"):
        raise InputError(
            f"The model must embed texts. Received: {name}, a {type(model).__name__}. Pass a "
            "student's .keras file, an exported folder, or a teacher."
        )
    return model


def load_student(name: str) -> Any:
    """Loads a student that Keras can train and export.

    Raises:
        InputError: If it is another kind of model.
    """
    from kdkeras import load
    from kdkeras.students import Student

    model = load(name)
    if not isinstance(model, Student):
        raise InputError(
            f"The model must be a student's .keras file. Received: {name}, "
            f"a {type(model).__name__}. Pass the file that `kdkeras distill` wrote."
        )
    return model
