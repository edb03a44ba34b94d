"""What the runtimes of the edge need besides Python."""

from __future__ import annotations

import os
import shutil

import pytest

MANDATORY = "KDKERAS_EDGE_REQUIRED"
"""Set where a missing tool is a failure and not a reason to skip: in `.ci/run`."""


def require(found, missing):
    """Returns `found`; without it the test fails in CI, and is skipped elsewhere, saying why."""
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
