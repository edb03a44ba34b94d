"""Ctrl-C, SIGTERM and SIGKILL leave what was finished usable, and training goes on from there."""

from __future__ import annotations

import json
import shutil
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
        stdout=subprocess.PIPE,
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
    printed, errors = process.communicate(timeout=60)
    return process.returncode, printed + errors


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
    assert "learning_rate=0.1, before learning_rate=0.004" in capsys.readouterr().err


def test_another_vocabulary_at_the_same_path_is_refused(
    interrupted, command, corpus, vocabulary, tmp_path, capsys
):
    _, again, _ = interrupted
    kept = tmp_path / "kept"
    shutil.move(vocabulary[0], kept)
    try:
        command("vocabulary", *corpus, "--size", 500, "--output", vocabulary[0])
        assert main([*again, "--resume"]) == 2
        assert "Received: vocabulary=" in capsys.readouterr().err.strip().splitlines()[-1]
    finally:
        shutil.rmtree(vocabulary[0])
        shutil.move(kept, vocabulary[0])


@pytest.fixture(scope="module")
def whole(command, targets, vocabulary, tmp_path_factory):
    """What an uninterrupted training gives."""
    output = tmp_path_factory.mktemp("whole") / "s.keras"
    command(*arguments(targets, vocabulary, output))
    return vectors(output)


def vectors(student):
    rows = (held_out_folder() / "de.tsv").read_text("utf-8").splitlines()
    return kdkeras.load(student).encode([row.split("\t")[0] for row in rows])


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(interrupted, whole):
    output, command, _ = interrupted
    assert main([*command, "--resume"]) == 0
    np.testing.assert_array_equal(vectors(output), whole)


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_training_goes_on_to_the_same_student(sent, targets, vocabulary, whole, tmp_path):
    output = tmp_path / "s.keras"
    command = arguments(targets, vocabulary, output)
    state = output.with_suffix(".backup") / "state.json"
    status, printed = interrupt_after(state, command, sent)
    assert not output.exists(), "it was killed too late"
    if sent is signal.SIGTERM:
        assert status == 0
        step = json.loads(state.read_text("utf-8"))["step"]
        assert f"at step {step} of {STEPS}" in " ".join(printed.split())
        assert step % 20, "a backup between rounds was wanted"
    assert main([*command, "--resume"]) == 0
    np.testing.assert_array_equal(vectors(output), whole)


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(targets, vocabulary, whole, tmp_path):
    random = np.random.default_rng(0)
    output = tmp_path / "s.keras"
    command = [*arguments(targets, vocabulary, output), "--resume"]
    state = output.with_suffix(".backup") / "state.json"
    steps = [0]
    for rounds in random.integers(1, 4, size=5):
        process = subprocess.Popen([sys.executable, "-m", "kdkeras", *command])
        for _ in range(rounds):
            before = state.stat().st_mtime_ns if state.exists() else None
            while not state.exists() or state.stat().st_mtime_ns == before:
                assert process.poll() is None, "it ended before it was killed"
                time.sleep(0.001)
        time.sleep(random.uniform(0, 0.1))  # into a step, or into the next backup
        process.kill()
        process.wait()
        steps.append(json.loads(state.read_text("utf-8"))["step"])
    assert steps == sorted(set(steps)) and steps[-1] < STEPS
    assert main(command) == 0
    np.testing.assert_array_equal(vectors(output), whole)
