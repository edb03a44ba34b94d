"""An exported student on emulated ARM processors, compared with this machine."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from edge_tools import require

from kdkeras.export import export_student

ROOT = Path(__file__).parents[2]
CHECK = ROOT / "export" / "arm" / "check.sh"
RELEASED = ROOT / "savedmodels" / "static-multilingual-28"
CPUS = ("cortex-a53", "cortex-a76", "neoverse-v1")
ROW = re.compile(r"^(\S+\.tflite) +(\S+) +([\d.]+) +(\S+) +[\d.]+(.*)$", re.MULTILINE)


@pytest.fixture(scope="module")
def compare():
    specification = importlib.util.spec_from_file_location("compare", CHECK.parent / "compare.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


def check(*arguments, python=sys.executable, **environment):
    return subprocess.run(
        ["bash", str(CHECK), *map(str, arguments)],
        env={**os.environ, "PYTHON": python, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def check_with_tools(*arguments):
    debian = shutil.which("apt-get") and shutil.which("dpkg-deb")
    require(
        debian,
        "apt-get and dpkg-deb must be installed: the aarch64 root consists of Debian packages.",
    )
    return check(*arguments)


@pytest.fixture(scope="module")
def released():
    """The result of `check.sh` for the released student."""
    return check_with_tools(RELEASED, "--per-language", "1")


@pytest.mark.slow
def test_released_student_is_the_same_on_arm(released):
    assert released.returncode == 0, released.stderr
    rows = ROW.findall(released.stdout)
    assert [row[:2] for row in rows] == [("model.int8.tflite", cpu) for cpu in CPUS]
    assert min(float(row[2]) for row in rows) >= 0.99999


@pytest.mark.slow
def test_transformer_is_the_same_on_arm(transformer_student, tmp_path):
    folder = tmp_path / "exported"
    formats = ["tflite_float32", "tflite_int8"]
    export_student(transformer_student, folder, formats=formats, sequence_lengths=(16,))
    few = ("--per-language", "1", "--file")
    # float32 on one processor only: emulation is slow.
    exact = check_with_tools(folder, *few, "model.float32.tflite", "--cpu", CPUS[0])
    small = check_with_tools(folder, *few, "model.int8.tflite")
    assert exact.returncode == small.returncode == 0, exact.stderr + small.stderr
    (exact_row,), small_rows = ROW.findall(exact.stdout), ROW.findall(small.stdout)
    assert exact_row[:2] == ("model.float32.tflite", CPUS[0]) and float(exact_row[3]) <= 1e-6
    assert [row[:2] for row in small_rows] == [("model.int8.tflite", cpu) for cpu in CPUS]
    # Some results differ in the last bits: emulated kernels ran, not those of this machine.
    assert any(float(row[3]) > 0 for row in [exact_row, *small_rows])


@pytest.mark.slow
def test_too_large_difference_exits_with_status_1(released, compare, monkeypatch, capsys):
    assert released.returncode == 0, released.stderr  # It has created the root.
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdkeras"
    root = max(cache.glob("arm-*"), key=os.path.getmtime)
    monkeypatch.setattr(compare, "OTHER_COSINE", 1.1)
    monkeypatch.setattr(
        sys,
        "argv",
        ["compare.py", str(RELEASED), "--root", str(root), "--python", "python3.13"]
        + ["--cpu", "cortex-a53", "--per-language", "1"],
    )
    with pytest.raises(
        SystemExit, match="FAILED: the maximum difference for float32 is 1e-06"
    ) as ended:
        compare.main()
    assert isinstance(ended.value.code, str)  # Python prints it and exits with status 1.
    assert "DIFFERS" in capsys.readouterr().out


def test_limit_depends_on_the_file(compare):
    # 3-4-5: cosine of (3, 4) and (4, 3) is 24/25.
    a, b = np.array([[1.0, 0.0], [3.0, 4.0]]), np.array([[2.0, 0.0], [4.0, 3.0]])
    assert compare.min_cosine(a, b) == pytest.approx(0.96)
    assert compare.is_equal("model.float32.tflite", 1e-6, 0.5)
    assert not compare.is_equal("model.float32.tflite", 2e-6, 1.0)
    assert compare.is_equal("model.int8.tflite", 0.1, 0.99999)
    assert not compare.is_equal("model.int8.tflite", 0.0, 0.9999)
    assert not compare.is_equal("model.int8.tflite", 0.0, float("nan"))


@pytest.mark.parametrize(
    ("arguments", "python", "message"),
    [
        ((), sys.executable, "A folder must be given. Received: no argument."),
        ((RELEASED,), "/no/python", "PYTHON must have ai-edge-litert and numpy. Received: /no/py"),
    ],
    ids=["no folder", "no python"],
)
def test_missing_requirement_is_refused_in_one_line(arguments, python, message):
    result = check(*arguments, python=python)
    assert result.returncode == 2
    assert message in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_folder_without_an_export_is_refused(tmp_path):
    script = CHECK.parent / "compare.py"
    command = [sys.executable, str(script), str(tmp_path), "--root", "/", "--python", "python3"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 2
    assert f"`folder` must contain export.json. Received: {tmp_path}." in result.stderr
