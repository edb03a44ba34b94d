"""Embeds sentences from the arguments or from stdin.

Without --output, one JSON object per sentence is printed: {"text": ..., "embedding": [...]}.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdkeras.cli.options import add_overwrite
from kdkeras.errors import InputError
from kdkeras.strings import well_formed

HELP = "embed sentences with a student or a teacher"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the arguments."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        help="student.keras, an exported folder, a released student's name, or a teacher "
        "(folder or hf://NAME)",
    )
    parser.add_argument(
        "texts", nargs="*", metavar="TEXT", help="sentences; if there are none, the lines of stdin"
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="FILE.npy",
        help="file for the embeddings, float32, of shape (sentences, dimensions)",
    )
    add_overwrite(parser)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Embeds the sentences."""
    import numpy as np

    from kdkeras.cli.models import load_encoder
    from kdkeras.files import atomic_write, refuse_existing

    if arguments.output is not None:
        refuse_existing(_npy(arguments.output), arguments.overwrite)
    encoder = load_encoder(arguments.model)
    texts = [well_formed(text) for text in arguments.texts] or _stdin_lines()
    embeddings = encoder.encode(texts)
    result = {"model": arguments.model, "sentences": len(texts), "dim": embeddings.shape[1]}
    if arguments.output is None:
        return {**result, "texts": texts, "embeddings": np.round(embeddings, 6).tolist()}
    with atomic_write(arguments.output) as temporary:
        np.save(temporary, embeddings.astype(np.float32))
    return {**result, "output": str(arguments.output)}


def _npy(path: Path) -> Path:
    if path.suffix != ".npy":
        raise InputError(
            f"The output must be a .npy file. Received: {path}. Name it {path.stem}.npy."
        )
    return path


def _stdin_lines() -> list[str]:
    try:
        # splitlines() would also split at U+2028 and five other characters.
        text = sys.stdin.buffer.read().decode("utf-8").replace("\r\n", "\n")
        lines = [line for line in text.split("\n") if line]
    except UnicodeDecodeError as error:
        raise InputError(
            f"stdin must be UTF-8. Received: byte {error.object[error.start]:#04x} at offset "
            f"{error.start}. Convert it first, e.g. with iconv -t utf-8."
        ) from error
    if not lines:
        raise InputError(
            "At least one sentence is required. Received: no TEXT and no line on stdin. "
            "Pass sentences, or pipe them in, one per line."
        )
    return lines


def show(result: dict[str, Any]) -> Iterator[str]:
    """Yields one JSON line per sentence, or the path of the file."""
    if "output" in result:
        yield (
            f"{result['sentences']:,} embeddings of {result['dim']} dimensions: {result['output']}"
        )
        return
    for text, embedding in zip(result["texts"], result["embeddings"], strict=True):
        yield json.dumps({"text": text, "embedding": embedding}, ensure_ascii=False)
