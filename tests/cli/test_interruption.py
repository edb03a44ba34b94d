"""After Ctrl-C, SIGTERM and SIGKILL a training continues to the same student."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

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


def interrupt(command, sent):
    """Runs a command in this process and sends it a signal after its first backup."""
    state = Path(command[command.index("--output") + 1]).with_suffix(".backup") / "state.json"

    def send():
        while not state.exists():
            if ended.wait(0.005):
                return
        os.kill(os.getpid(), sent)

    ended = threading.Event()
    # A test run in the background may ignore the signal.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    thread = threading.Thread(target=send)
    thread.start()
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(command)
    finally:
        ended.set()
        thread.join()
        signal.signal(signal.SIGINT, handler)
    return status, out.getvalue() + err.getvalue()


@pytest.fixture(scope="module")
def interrupted(targets, vocabulary, tmp_path_factory):
    output = tmp_path_factory.mktemp("interrupted") / "s.keras"
    command = arguments(targets, vocabulary, output)
    return output, command, interrupt(command, signal.SIGINT)


def test_ctrl_c_saves_the_student_and_names_the_next_command(interrupted):
    output, _, (status, printed) = interrupted
    assert status == 130
    assert str(output) in printed and "--resume" in printed and "Traceback" not in printed
    assert kdkeras.load(output).encode(["Hallo!"]).shape == (1, kdkeras.load(output).output_dim)


def test_a_backup_is_not_overwritten_and_its_settings_are_kept(interrupted, capsys):
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
def uninterrupted(command, targets, vocabulary, tmp_path_factory):
    """Embeddings of the student of an uninterrupted training."""
    output = tmp_path_factory.mktemp("uninterrupted") / "s.keras"
    command(*arguments(targets, vocabulary, output))
    return vectors(output)


def vectors(student):
    rows = (held_out_folder() / "de.tsv").read_text("utf-8").splitlines()
    return kdkeras.load(student).encode([row.split("\t")[0] for row in rows])


def test_a_resumed_training_ends_where_an_uninterrupted_one_does(interrupted, uninterrupted):
    output, command, _ = interrupted
    assert main([*command, "--resume"]) == 0
    np.testing.assert_array_equal(vectors(output), uninterrupted)


def test_after_sigterm_a_training_continues_to_the_same_student(
    targets, vocabulary, uninterrupted, tmp_path
):
    output = tmp_path / "s.keras"
    command = arguments(targets, vocabulary, output)
    status, printed = interrupt(command, signal.SIGTERM)
    assert status == 0 and not output.exists(), "the signal was sent too late"
    state = output.with_suffix(".backup") / "state.json"
    step = json.loads(state.read_text("utf-8"))["step"]
    assert f"at step {step} of {STEPS}" in " ".join(printed.split())
    assert main([*command, "--resume"]) == 0
    np.testing.assert_array_equal(vectors(output), uninterrupted)


@pytest.mark.slow
def test_after_sigkill_at_random_moments_a_training_continues_to_the_same_student(
    targets, vocabulary, uninterrupted, tmp_path
):
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
                assert process.poll() is None, "the training ended before the signal"
                time.sleep(0.001)
        time.sleep(random.uniform(0, 0.1))  # into a step, or into the next backup
        process.kill()
        process.wait()
        steps.append(json.loads(state.read_text("utf-8"))["step"])
    assert steps == sorted(set(steps)) and steps[-1] < STEPS
    assert main(command) == 0
    np.testing.assert_array_equal(vectors(output), uninterrupted)
