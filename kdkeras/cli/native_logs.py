"""Hiding the logs of native libraries."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_native_logs"]

STDERR = 2


@contextmanager
def quiet_native_logs() -> Iterator[None]:
    """Hides output to file descriptor 2; prints it if the body raises.

    TensorFlow 2.21 logs during its import before it reads
    `TF_CPP_MIN_LOG_LEVEL`, so the variable alone does not suffice.
    """
    terminal = os.dup(STDERR)
    with tempfile.TemporaryFile() as hidden:
        os.dup2(hidden.fileno(), STDERR)
        try:
            yield
        except BaseException:
            hidden.seek(0)
            os.write(terminal, hidden.read())
            raise
        finally:
            os.dup2(terminal, STDERR)
            os.close(terminal)
