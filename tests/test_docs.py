"""The examples and commands in README.md and docs run as they stand."""

from __future__ import annotations

import gzip
import re
import shlex
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import kdkeras
from kdkeras.__main__ import main
from kdkeras.data import read_translation_pairs, sample_folder

ROOT = Path(__file__).parents[1]
TEACHER = ROOT / "tests" / "teachers" / "tiny_bert" / "mean"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
# Names of the documentation, and the files and folders that the tests have in their place.
STAND_INS = {
    "hf://sentence-transformers/all-MiniLM-L6-v2": str(TEACHER),
    "--size 32000": "--size 600",
    "kdkeras/sample": str(sample_folder()),
}


def blocks(page, language):
    return [code for name, code in BLOCK.findall(page.read_text("utf-8")) if name == language]


def with_stand_ins(code):
    for name, path in STAND_INS.items():
        code = code.replace(name, path)
    return code


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """A folder with the files that the documentation names."""
    folder = tmp_path_factory.mktemp("project")
    pairs = read_translation_pairs(sample_folder() / "held_out")
    for language in ("de", "ja"):
        rows = "".join(f"{e}\t{f}\n" for f, e in zip(*pairs[language], strict=True))
        (folder / f"en-{language}.tsv.gz").write_bytes(gzip.compress(rows.encode()))
    return folder


def run_page(page, folder, monkeypatch, recipe=None):
    """Runs all Python examples of a page, one after the other; returns their names."""
    monkeypatch.chdir(folder)
    names = {}
    for code in blocks(page, "python"):
        exec(compile(with_stand_ins(code), page.name, "exec"), names)  # noqa: S102
    return names
