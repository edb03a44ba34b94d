"""Keeping the logs of native libraries off the terminal."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet_native_logs"]

STDERR = 2


@contextmanager
def quiet_native_logs() -> Iterator[None]:
    """Holds back what is written to file descriptor 2; shows it if the body fails.

    While it loads, TensorFlow 2.21 logs before it reads
    `TF_CPP_MIN_LOG_LEVEL`, so the variable alone does not silence it.
    """
    terminal = os.dup(STDERR)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), STDERR)
        try:
            yield
        except BaseException:
            held_back.seek(0)
            os.write(terminal, held_back.read())
            raise
        finally:
            os.dup2(terminal, STDERR)
            os.close(terminal)
