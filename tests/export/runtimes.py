"""Shared parts of the tests of other runtimes: students, malformed texts, a Python with PyTorch."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from edge_tools import require

from kdkeras.students import StaticStudent, TransformerStudent

ROOT = Path(__file__).parents[2]
SEQUENCE_LENGTH = 37

# Wulfila's Bible (4th century), Matthew 6:9, in a script that no vocabulary covers.
GOTHIC = "𐌰𐍄𐍄𐌰 𐌿𐌽𐍃𐌰𐍂 𐌸𐌿 𐌹𐌽 𐌷𐌹𐌼𐌹𐌽𐌰𐌼 𐍅𐌴𐌹𐌷𐌽𐌰𐌹 𐌽𐌰𐌼𐍉 𐌸𐌴𐌹𐌽"


def bad_texts(sentences):
    """Returns malformed and unusual texts by name."""
    words = " ".join(sentences).split()
    return {
        "nothing": "",
        "white space": " \t\n\u3000",
        "10,000 words": " ".join((words * 2)[:10_000]),
        "unknown script": GOTHIC,
        "emoji": "👍🏽 👨‍👩‍👧‍👦 🇩🇪 1️⃣ ❤️",
        "bytes of Latin-1": "Grüße aus Köln".encode("latin-1").decode("utf-8", "surrogateescape"),
        "half a character": "Köln, 東京".encode()[:-1].decode("utf-8", "surrogateescape"),
        "a surrogate of JavaScript": "Köln \ud83d",
        "NUL": "Guten Morgen\0 und gute Nacht",
        "NUL alone": "\0",
        "control characters": "Guten\x01 Morgen\x7f\x85",
        "names of special tokens": "[PAD] [CLS] <pad> <unk> ##a",
        "no characters": "Guten \ufdd0\ufdd1 Morgen \uffff",
        "byte order mark": "\ufeffGuten Morgen",
        "line separators": "Guten\u2028Morgen\u2029gute\x85Nacht\x0b\x1c",
    }


def replaced(text):
    """Replaces lone surrogates, which strict interfaces refuse."""
    known = text.replace("\ud83d", "\ufffd")
    return known.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def make_student(kind, vocabulary):
    """Returns a small student whose weights all differ from their initial values."""
    shared = {"sequence_length": SEQUENCE_LENGTH, "vocabulary": vocabulary}
    if kind == "static":
        student = StaticStudent(vocabulary.size, 48, 64, **shared)
    else:
        student = TransformerStudent(
            vocabulary.size,
            32,
            num_layers=2,
            hidden_dim=64,
            num_heads=2,
            intermediate_dim=96,
            normalize=False,
            **shared,
        )
    generator = np.random.default_rng(7)
    for variable in student.variables:
        noise = generator.normal(scale=0.05, size=variable.shape)
        variable.assign(variable + noise.astype("float32"))
    return student


def python_with_torch():
    """Returns a Python with sentence-transformers, which `tools/runtimes.sh` installs."""
    if find_spec("sentence_transformers"):
        return sys.executable
    installed = ROOT / ".venv-runtimes" / ".installed"
    missing = "sentence-transformers must be installed. Run: sh tools/runtimes.sh"
    require(installed.exists(), missing)
    return str(installed.parent / "bin" / "python")


def needs(*packages):
    """Skips the test, or fails it in CI, if a runtime of the extra `test` is not installed."""
    for package in packages:
        require(find_spec(package), f'{package} must be installed (pip install "kdkeras[test]").')


def cosines(a, b):
    return (a * b).sum(1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))
