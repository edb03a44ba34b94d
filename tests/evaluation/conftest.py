from __future__ import annotations

from pathlib import Path

import pytest

from kdkeras import teachers


@pytest.fixture(scope="session")
def tiny_teacher():
    return teachers.load(Path(__file__).parents[1] / "teachers" / "tiny_bert" / "mean")
