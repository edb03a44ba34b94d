"""Loading a teacher from a folder or from the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from kdkeras.errors import InputError, require_extra
from kdkeras.teachers.snapshot import Snapshot, read_snapshot

if TYPE_CHECKING:
    import tokenizers

    from kdkeras.teachers.teacher import Teacher

__all__ = ["load"]

_HUB = "hf://"
_ADDRESS = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# No pickles (*.bin, *.pt), and no copies of the weights for other runtimes.
_ALLOWED = ("*.safetensors", "*.json", "*.txt")
_IGNORED = ("onnx/*", "openvino/*")


def load(name_or_folder: str | os.PathLike[str]) -> Teacher:
    """Loads a sentence-transformers model with BERT architecture.

    Supports everything that its `modules.json` can describe for BERT: pooling
    (mean, cls, max), Dense and Normalize modules, maximum length, lower-casing and
    default prompt. Weights are read from safetensors files only, never from a
    pickle.

    Args:
        name_or_folder: A snapshot folder, or `"hf://organization/name"` or
            `"hf://organization/name@revision"`, which is downloaded from the
            Hugging Face Hub (needs the extra `hub`).

    Returns:
        The teacher. Its fingerprint does not depend on the location of the files.

    Raises:
        InputError: If the folder or one of its files is missing, the architecture
            is not BERT, or the weights exist only as a pickle.
        MissingExtraError: If a Hub name is given and `huggingface_hub` is not
            installed.

    Example:
        ```python
        teacher = kdkeras.teachers.load("hf://sentence-transformers/all-MiniLM-L6-v2")
        teacher.encode(["There's still hope."]).shape  # (1, 384)
        ```
    """
    address = os.fspath(name_or_folder)
    if address.startswith(_HUB):
        folder, name = _download(address), address.removeprefix(_HUB).split("@")[0]
    else:
        folder = Path(address)
        name = folder.resolve().name
    snapshot = read_snapshot(folder)
    tokenizer = _read_tokenizer(snapshot)
    # TensorFlow is imported after the checks, so that bad folders fail fast.
    from kdkeras.teachers.bert import build_encoder
    from kdkeras.teachers.teacher import Teacher

    return Teacher(name, snapshot, build_encoder(snapshot), tokenizer)


def _download(address: str) -> Path:
    """Downloads a snapshot into the cache of `huggingface_hub` and returns its folder."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise InputError(
            "A Hub address must be hf://organization/name or hf://organization/name@revision. "
            f"Received: {address}. Example: hf://sentence-transformers/all-MiniLM-L6-v2."
        )
    hub = require_extra("huggingface_hub", "hub")
    kinds = require_extra("huggingface_hub.errors", "hub")
    errors = (OSError, kinds.HfHubHTTPError, kinds.LocalEntryNotFoundError, kinds.HFValidationError)
    try:
        folder = hub.snapshot_download(
            match["name"],
            revision=match["revision"],
            allow_patterns=list(_ALLOWED),
            ignore_patterns=list(_IGNORED),
        )
    except errors as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"The teacher must be on the Hugging Face Hub. Received: {address} ({reason}). "
            "Check the name and the network connection, or pass a folder."
        ) from error
    return Path(folder)


def _read_tokenizer(snapshot: Snapshot) -> tokenizers.Tokenizer:
    import tokenizers

    path = snapshot.folder / "tokenizer.json"
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # `tokenizers` raises plain Exception.
        raise InputError(
            f"`tokenizer.json` must be a Hugging Face tokenizer. Received: {path} ({error}). "
            "Download the snapshot again."
        ) from error
