from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kdkeras import teachers

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def tiny_folder():
    return HERE / "tiny_bert"


@pytest.fixture(scope="session")
def tiny_reference():
    """Real sentences, and what sentence-transformers gives for them."""
    return json.loads((HERE / "tiny_vectors.json").read_text("utf-8"))


@pytest.fixture(scope="session")
def tiny_teacher(tiny_folder):
    return teachers.load(tiny_folder / "mean")


@pytest.fixture
def snapshot(tiny_folder, tmp_path):
    """A copy to spoil."""
    return Path(shutil.copytree(tiny_folder / "mean", tmp_path / "snapshot"))
