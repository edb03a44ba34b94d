"""The sample data of the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from kdkeras.errors import InputError

__all__ = ["sample_folder"]


def sample_folder() -> Path:
    """Returns the folder of the bundled sample.

    It contains `distillation_set/`, `vocabulary/`, `held_out/{language}.tsv`
    (translation pairs whose sentences are not in the set) and
    `ATTRIBUTION.md`. The sentences are from tatoeba.org, CC BY 2.0 FR.

    Returns:
        Path of the folder.

    Raises:
        InputError: If the package was installed without its data.
    """
    folder = Path(str(resources.files("kdkeras") / "sample"))
    if not (folder / "distillation_set").is_dir():
        raise InputError(
            f"The bundled sample must be installed with the package. Received: {folder}. "
            "Install kdkeras from its wheel."
        )
    return folder
