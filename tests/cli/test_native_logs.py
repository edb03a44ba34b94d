"""Logs of native libraries are hidden, and printed only after an error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdkeras.cli.native_logs import quiet_native_logs


def test_native_logs_are_hidden(capfd):
    with quiet_native_logs():
        os.write(2, b"I0000 noise\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_native_logs_are_printed_after_an_error(capfd):
    with pytest.raises(ImportError), quiet_native_logs():
        os.write(2, b"F0000 what went wrong\n")
        raise ImportError("library")
    assert capfd.readouterr().err == "F0000 what went wrong\n"


def test_a_command_writes_nothing_but_its_result():
    """In a process of its own, because libraries log during their import."""
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    released = Path(__file__).parents[2] / "savedmodels" / "static-multilingual-28"
    command = [sys.executable, "-m", "kdkeras", "embed", str(released), "Guten Morgen."]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == "" and done.stdout.startswith('{"text": "Guten Morgen."')
