"""After a killed worker or SIGTERM, two workers continue to the student of an uninterrupted run."""

from __future__ import annotations

import json
import signal
import time

import numpy as np
import pytest

import kdkeras
from kdkeras import data

STEPS = 60


@pytest.fixture(scope="module")
def arguments():
    sample = data.sample_folder()
    return [
        *("distill", str(sample / "distillation_set"), "--vocabulary", str(sample / "vocabulary")),
        *("--student", "static_128", "--batch-size", "64", "--steps", str(STEPS)),
        *("--checkpoint-every", "10", "--strategy", "multi_worker", "--json", "--output"),
    ]


@pytest.fixture
def train(start_module_in_workers, arguments):
    """Trains with two workers; returns the status, output and errors of each."""
    started = []

    def start(output, *more, meanwhile=None):
        processes = start_module_in_workers(*arguments, str(output), *more)
        started.extend(processes)
        if meanwhile:
            meanwhile(processes)
        texts = [process.communicate(timeout=240) for process in processes]
        return [(p.returncode, *text) for p, text in zip(processes, texts, strict=True)]

    yield start
    for process in started:
        process.kill()


def backup_step(output):
    state = output.with_suffix(".backup") / "state.json"
    return json.loads(state.read_text("utf-8"))["step"] if state.exists() else 0


def until(output, step, processes):
    while backup_step(output) < step:
        assert processes[0].poll() is None, processes[0].stderr.read()
        time.sleep(0.002)


def weights(output):
    return kdkeras.load(output).get_weights()


@pytest.fixture(scope="module")
def uninterrupted(start_module_in_workers, arguments, tmp_path_factory):
    """Weights after an uninterrupted training of two workers."""
    output = tmp_path_factory.mktemp("uninterrupted") / "s.keras"
    processes = start_module_in_workers(*arguments, str(output))
    texts = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], texts
    results = [json.loads(printed) for printed, _ in texts]
    for result in results:
        result.pop("seconds")
    assert results[0] == results[1]
    return weights(output)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_after_a_killed_worker_the_training_continues_to_the_same_student(
    killed, train, uninterrupted, tmp_path
):
    output = tmp_path / "s.keras"
    random = np.random.default_rng(killed)

    def kill(processes):
        until(output, int(random.choice([10, 20, 30])), processes)
        time.sleep(random.uniform(0, 0.1))  # During a step or the next backup.
        processes[killed].kill()

    found = train(output, meanwhile=kill)
    status, _, errors = found[1 - killed]
    assert status == 1
    lines = [line for line in errors.splitlines() if line.startswith("kdkeras: error")]
    assert len(lines) == 1 and "--resume on all machines" in lines[0], errors
    assert not output.exists() and 0 < backup_step(output) < STEPS
    assert [status for status, *_ in train(output, "--resume")] == [0, 0]
    for one, other in zip(weights(output), uninterrupted, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_after_sigterm_to_one_worker_all_stop_at_the_same_step(train, uninterrupted, tmp_path):
    output = tmp_path / "s.keras"
    began = []

    def terminate(processes):
        until(output, 10, processes)
        began.append(time.monotonic())
        processes[1].send_signal(signal.SIGTERM)

    found = train(output, meanwhile=terminate)
    assert time.monotonic() - began[0] < 30
    results = [json.loads(printed) for status, printed, _ in found if status == 0]
    assert results[0] == results[1] and 10 < results[0]["stopped_at"] < STEPS
    assert backup_step(output) == results[0]["stopped_at"]
    assert [status for status, *_ in train(output, "--resume")] == [0, 0]
    for one, other in zip(weights(output), uninterrupted, strict=True):
        np.testing.assert_array_equal(one, other)
