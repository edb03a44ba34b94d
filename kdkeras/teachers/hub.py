"""Downloading a teacher from the Hugging Face hub (extra `hub`)."""

from __future__ import annotations

import re
from pathlib import Path

from kdkeras.errors import InputError, require_extra

__all__ = ["PREFIX", "download"]

PREFIX = "hf://"
_NAME = re.compile(r"hf://(?P<name>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
# Never a pickle (*.bin, *.pt), nor the same weights in another runtime's form.
_ALLOWED = ("*.safetensors", "*.json", "*.txt")
_IGNORED = ("onnx/*", "openvino/*")


def download(address: str) -> Path:
    """Fetches a snapshot into the hub's own cache and returns its folder.

    Args:
        address: `"hf://organisation/name"`, with `@revision` if wanted.

    Raises:
        InputError: If the address is malformed or the hub does not give it.
        MissingExtraError: If `huggingface_hub` is not installed.
    """
    match = _NAME.fullmatch(address)
    if match is None:
        raise InputError(
            "A hub address must be hf://organisation/name or hf://organisation/name@revision. "
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
            f"The hub must hold the teacher and be reachable. Received: {address} ({reason}). "
            "Check the name and the network, or pass a folder."
        ) from error
    return Path(folder)
