"""Runs of several replicas, each in a process of its own."""

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
        # A group of its own, so that whatever it starts ends with it.
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
    """Starts one process a command, each with its place in one TF_CONFIG."""
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
    """Runs one of this folder's scripts in two workers, with the arguments for each index."""

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
    """Runs one of this folder's scripts, and shows what it said if it failed."""
    return lambda script, *arguments: _run(HERE / script, *arguments)


@pytest.fixture(scope="session")
def run_module():
    """Runs `kdkeras` in a process of its own."""
    return lambda *arguments: _run("-m", "kdkeras", *arguments)


@pytest.fixture(scope="session")
def differences(tmp_path_factory):
    """Trains cases with one replica and with two; returns how they differ."""

    def compare(names):
        folder = tmp_path_factory.mktemp("cases")
        # Two processes, one a core, each with a share of the cases.
        parts = {folder / f"{i}.json": names[i::2] for i in range(2) if names[i::2]}
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
