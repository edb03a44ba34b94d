"""Runs of several replicas, each in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _run(*command):
    finished = subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True,
        text=True,
    )
    assert finished.returncode == 0, finished.stderr[-4000:]
    return finished.stdout


@pytest.fixture(scope="session")
def run_python():
    """Runs one of this folder's scripts, and shows what it said if it failed."""
    return lambda script, *arguments: _run(HERE / script, *arguments)


@pytest.fixture(scope="session")
def run_module():
    """Runs `kdkeras` in a process of its own."""
    return lambda *arguments: _run("-m", "kdkeras", *arguments)


@pytest.fixture(scope="session")
def differences(run_python, tmp_path_factory):
    """Trains cases with one replica and with two; returns how they differ."""

    def compare(names):
        output = tmp_path_factory.mktemp("cases") / "differences.json"
        run_python("run_cases.py", output, *names)
        return json.loads(output.read_text())

    return compare
