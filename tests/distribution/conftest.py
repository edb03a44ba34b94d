"""Trainings on several replicas or workers, in separate processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def _start(command, **environment):
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A new process group, so that child processes end with it.
        start_new_session=True,
    )


def _finish(process, timeout=300):
    try:
        printed, errors = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, errors[-4000:]
    return printed


def _run(*command):
    return _finish(_start(command))


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("localhost", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_workers(commands):
    """Starts one process per command, with one TF_CONFIG for all of them."""
    addresses = [f"localhost:{port}" for port in free_ports(len(commands))]
    return [
        _start(
            command,
            TF_CONFIG=json.dumps(
                {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            ),
        )
        for index, command in enumerate(commands)
    ]


@pytest.fixture(scope="session")
def run_workers():
    """Runs a script of this folder in two workers, with the arguments for each index."""

    def run(script, arguments):
        processes = start_workers([[HERE / script, *arguments(i)] for i in range(2)])
        try:
            return [_finish(process) for process in processes]
        finally:
            for process in processes:
                process.kill()

    return run


@pytest.fixture(scope="session")
def start_module_in_workers():
    """Starts `kdkeras` with the same arguments in two workers."""
    return lambda *arguments: start_workers([["-m", "kdkeras", *arguments]] * 2)


@pytest.fixture(scope="session")
def run_python():
    """Runs a script of this folder; prints its errors if it fails."""
    return lambda script, *arguments: _run(HERE / script, *arguments)


@pytest.fixture(scope="session")
def run_module():
    """Runs `kdkeras` in a new process."""
    return lambda *arguments: _run("-m", "kdkeras", *arguments)


@pytest.fixture(scope="session")
def differences(tmp_path_factory):
    """Trains cases with one replica and with two; returns their differences."""

    def compare(names):
        folder = tmp_path_factory.mktemp("cases")
        # Two processes if there are many cases, one per core.
        count = 2 if len(names) > 4 else 1
        parts = {folder / f"{i}.json": names[i::count] for i in range(count)}
        processes = [
            _start([HERE / "run_cases.py", output, *part]) for output, part in parts.items()
        ]
        for process in processes:
            _finish(process, timeout=300 + 30 * len(names))
        found = {}
        for output in parts:
            found.update(json.loads(output.read_text()))
        return found

    return compare
