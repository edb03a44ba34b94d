"""The sample that comes with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from kdkeras.errors import InputError

__all__ = ["sample_folder"]


def sample_folder() -> Path:
    """Returns the folder of the bundled sample.

    It holds `distillation_set/`, `vocabulary/`, `held_out/{language}.tsv`
    (retrieval pairs, disjoint from the set on both sides) and
    `ATTRIBUTION.md`: real sentences of tatoeba.org, CC BY 2.0 FR.

    Raises:
        InputError: If the package was installed without its data.
    """
    folder = Path(str(resources.files("kdkeras") / "sample"))
    if not (folder / "distillation_set").is_dir():
        raise InputError(
            f"The bundled sample must be installed with the package. Received: {folder}. "
            "Install kdkeras from its wheel, unpacked."
        )
    return folder
