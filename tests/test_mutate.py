"""The mutation check: its table fits the sources, and it reports which faults are detected."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import subprocess
from pathlib import Path

import pytest

SOURCE = "def double(x):\n    return 2 * x\n\n\ndef absolute(x):\n    return abs(x)\n"
TESTS = "from area import double\n\n\ndef test_double():\n    assert double(3) == 6\n"


@pytest.fixture
def mutate(monkeypatch):
    """The tool, whose processes import nothing that these tests do not need."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "tools")
    tool = importlib.import_module("mutate")
    monkeypatch.setattr(tool, "PROCESSES", multiprocessing.get_context("spawn"))
    return lambda *arguments: tool.main([str(argument) for argument in arguments])


def entry(name, find, replace):
    fields = {"id": name, "file": "area.py", "find": find, "replace": replace, "note": name}
    lines = [f"{key} = {json.dumps(value)}" for key, value in fields.items()]
    return "\n".join(["[[mutant]]", *lines, 'tests = ["test_area.py"]', ""])


@pytest.fixture
def project(tmp_path):
    """A module of two functions, of which the tests check one."""
    root = tmp_path / "project"
    root.mkdir()
    subprocess.run(["git", "init", "-q", root], check=True)
    (root / "area.py").write_text(SOURCE)
    (root / "test_area.py").write_text(TESTS)
    return ["--root", root, "--table", tmp_path / "mutants.toml"]


def test_text_of_every_mutant_occurs_once(mutate, capsys):
    status, printed = mutate("--list"), capsys.readouterr()
    assert status == 0, printed.err
    assert len(printed.out.splitlines()) >= 40


def test_survivors_are_told_from_detected_faults(mutate, project, tmp_path):
    mutants = [entry("doubled", "2 * x", "3 * x"), entry("unchecked", "abs(x)", "x")]
    project[-1].write_text("\n".join(mutants))
    assert mutate(*project, "--output", tmp_path / "results.json") == 1
    results = json.loads((tmp_path / "results.json").read_text())
    assert {name: found["outcome"] for name, found in results.items()} == {
        "doubled": "killed",
        "unchecked": "survived",
    }
    assert (project[1] / "area.py").read_text() == SOURCE


@pytest.mark.parametrize(("find", "message"), [("3 * x", "0 times"), ("(x)", "3 times")])
def test_outdated_table_is_refused(mutate, project, capsys, find, message):
    project[-1].write_text(entry("outdated", find, "0"))
    assert mutate(*project, "--list") == 2
    printed = capsys.readouterr().err
    assert "outdated" in printed and message in printed


def test_failing_tests_are_refused(mutate, project, capsys):
    project[-1].write_text(entry("doubled", "2 * x", "3 * x"))
    (project[1] / "test_area.py").write_text(TESTS.replace("6", "7"))
    assert mutate(*project) == 2
    printed = capsys.readouterr().err
    assert "must pass without a fault" in printed and "test_double" in printed
