"""Logs of native libraries are held back, and shown only if something fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kdkeras.cli.native_logs import quiet_native_logs


def test_native_logs_are_held_back(capfd):
    with quiet_native_logs():
        os.write(2, b"I0000 noise\n")
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "after\n"


def test_native_logs_are_shown_when_the_body_fails(capfd):
    with pytest.raises(ImportError), quiet_native_logs():
        os.write(2, b"F0000 what went wrong\n")
        raise ImportError("library")
    assert capfd.readouterr().err == "F0000 what went wrong\n"


def test_a_command_prints_its_error_and_nothing_else():
    environment = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    output = subprocess.run(
        [sys.executable, "-m", "kdkeras", "embed", "none.keras", "Hallo!"],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert output.returncode == 2
    assert output.stdout == ""
    assert output.stderr.startswith("kdkeras: error: ") and output.stderr.count("\n") == 1


def test_an_exported_student_embeds_without_a_word_from_its_runtime():
    released = Path(__file__).parents[2] / "savedmodels" / "static-multilingual-28"
    command = [sys.executable, "-m", "kdkeras", "embed", str(released), "Guten Morgen."]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stderr == "" and done.stdout.startswith('{"text": "Guten Morgen."')
