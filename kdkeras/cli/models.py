"""Loading the models that commands receive by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kdkeras.cli.native_logs import quiet_native_logs
from kdkeras.errors import InputError

__all__ = ["load_encoder", "load_student"]


def load_encoder(name: str) -> Any:
    """Loads a student or a teacher, which has a method `encode(texts)`.

    Raises:
        InputError: If the model is of another kind.
    """
    if name.startswith("hf://") or (Path(name) / "modules.json").is_file():
        from kdkeras import teachers

        return teachers.load(name)
    from kdkeras import load
    from kdkeras.export import LiteStudent

    with quiet_native_logs():
        model = load(name)
        if isinstance(model, LiteStudent):
            model.encode([""])  # LiteRT logs its delegate when it first runs.
    if not hasattr(model, "encode"):
        raise InputError(
            f"The model must embed texts. Received: {name}, a {type(model).__name__}. Pass the "
            ".keras file of a student, an exported folder or a teacher."
        )
    return model


def load_student(name: str) -> Any:
    """Loads a student that Keras can train and export.

    Raises:
        InputError: If the model is of another kind.
    """
    from kdkeras import load
    from kdkeras.students import Student

    model = load(name)
    if not isinstance(model, Student):
        raise InputError(
            f"The model must be the .keras file of a student. Received: {name}, "
            f"a {type(model).__name__}. Pass a file that `kdkeras distill` wrote."
        )
    return model
