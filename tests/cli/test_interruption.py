"""Ctrl-C leaves what was finished usable, and training goes on from there."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import kdkeras
from kdkeras.__main__ import main
from tests.cli.conftest import held_out_folder

STEPS = 300


def arguments(targets, vocabulary, output):
    return [
        *("distill", str(targets[0]), "--vocabulary", str(vocabulary[0]), "--output", str(output)),
        *("--student", "static_128", "--batch-size", "16", "--checkpoint-every", "20"),
        *("--steps", str(STEPS)),
    ]


def interrupt_after(seen, command, sent):
    """Starts a command, and sends it a signal once a file is there."""
    process = subprocess.Popen(
        [sys.executable, "-m", "kdkeras", *command],
        stderr=subprocess.PIPE,
        text=True,
        # A test run in the background may ignore the signal, and would hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    for _ in range(3000):
        if seen.exists() or process.poll() is not None:
            break
        time.sleep(0.02)
    process.send_signal(sent)
    return process.wait(60), process.stderr.read()


@pytest.fixture(scope="module")
def interrupted(targets, vocabulary, tmp_path_factory):
    output = tmp_path_factory.mktemp("interrupted") / "s.keras"
    command = arguments(targets, vocabulary, output)
    state = output.with_suffix(".backup") / "state.json"
    return output, command, interrupt_after(state, command, signal.SIGINT)


def test_ctrl_c_saves_the_student_and_says_so(interrupted):
    output, _, (status, printed) = interrupted
    assert status == 130
    assert str(output) in printed and "--resume" in printed and "Traceback" not in printed
    assert kdkeras.load(output).encode(["Hallo!"]).shape == (1, kdkeras.load(output).output_dim)


def test_a_backup_is_not_lost_by_beginning_anew(interrupted, capsys):
    output, command, _ = interrupted
    assert main(command) == 2
    assert "--resume" in capsys.readouterr().err
    assert main([*command, "--resume", "--learning-rate", "0.1"]) == 2
    assert "learning_rate=0.1, before learning_rate=0.005" in capsys.readouterr().err


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(
    interrupted, targets, vocabulary, tmp_path
):
    output, command, _ = interrupted
    assert main([*command, "--resume"]) == 0
    assert main(arguments(targets, vocabulary, tmp_path / "whole.keras")) == 0
    rows = (held_out_folder() / "de.tsv").read_text("utf-8").splitlines()
    texts = [row.split("\t")[0] for row in rows]
    resumed, whole = (kdkeras.load(p).encode(texts) for p in (output, tmp_path / "whole.keras"))
    np.testing.assert_allclose(resumed, whole, atol=1e-3)
