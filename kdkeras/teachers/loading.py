"""Finding a teacher by its folder or hub name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from kdkeras.errors import InputError
from kdkeras.teachers import hub
from kdkeras.teachers.snapshot import Snapshot, read_snapshot

if TYPE_CHECKING:
    import tokenizers

    from kdkeras.teachers.teacher import Teacher

__all__ = ["load"]


def load(name_or_folder: str | os.PathLike[str]) -> Teacher:
    """Loads a sentence-transformers model of BERT architecture.

    Its `modules.json` is honoured: pooling (mean, cls, max), Dense and
    Normalize modules, maximum length, lower-casing and default prompt. Weights
    are read from safetensors only, never from a pickle.

    Args:
        name_or_folder: A snapshot's folder, or `"hf://organisation/name"`,
            which downloads it (needs the extra `hub`).

    Returns:
        The teacher. Its fingerprint does not depend on where the files lie.

    Raises:
        InputError: If the folder is missing, lacks a file (it is named), holds
            another architecture, or has its weights only as a pickle.
        MissingExtraError: If a hub name is given without the extra.

    Example:
        ```python
        teacher = kdkeras.teachers.load("hf://sentence-transformers/all-MiniLM-L6-v2")
        teacher.encode(["There's still hope."]).shape  # (1, 384)
        ```
    """
    address = os.fspath(name_or_folder)
    if address.startswith(hub.PREFIX):
        folder, name = hub.download(address), address.removeprefix(hub.PREFIX).split("@")[0]
    else:
        folder = Path(address)
        name = folder.resolve().name
    snapshot = read_snapshot(folder)
    tokenizer = _read_tokenizer(snapshot)
    # TensorFlow is imported only once the folder is known to be usable.
    from kdkeras.teachers.bert import build_encoder
    from kdkeras.teachers.teacher import Teacher

    return Teacher(name, snapshot, build_encoder(snapshot), tokenizer)


def _read_tokenizer(snapshot: Snapshot) -> tokenizers.Tokenizer:
    import tokenizers

    path = snapshot.folder / "tokenizer.json"
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise InputError(
            f"`tokenizer.json` must be a Hugging Face tokenizer. Received: {path} ({error}). "
            "Download the snapshot again."
        ) from error
