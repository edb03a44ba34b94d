from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def tiny_folder():
    return HERE / "tiny_bert"


@pytest.fixture(scope="session")
def tiny_reference():
    """Real sentences and their embeddings by sentence-transformers."""
    return json.loads((HERE / "tiny_vectors.json").read_text("utf-8"))


@pytest.fixture
def snapshot(tiny_folder, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(tiny_folder / "mean", tmp_path / "snapshot"))
