"""Tools that some runtimes need in addition to Python."""

from __future__ import annotations

import os
import shutil

import pytest

MANDATORY = "KDKERAS_EDGE_REQUIRED"
"""If this variable is set, as in `.ci/run`, a missing tool fails the test."""


def require(found, missing):
    """Returns `found`. If it is empty, the test fails in CI and is skipped elsewhere."""
    if found:
        return found
    if os.environ.get(MANDATORY):
        pytest.fail(f"{missing} ({MANDATORY} is set.)")
    pytest.skip(missing)


def node():
    return require(shutil.which("node"), "Node must be installed (Debian: apt install nodejs).")


def chromium():
    found = os.environ.get("CHROMIUM") or shutil.which("chromium")
    return require(found, "Chromium must be installed (apt install chromium), or CHROMIUM=PATH.")
