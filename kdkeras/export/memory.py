"""Peak resident memory of this process."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

__all__ = ["peak_memory"]


def peak_memory() -> int:
    """Returns the most bytes that were resident since this program started."""
    status = Path("/proc/self/status")
    if status.exists():
        # Linux: `getrusage` would count the parent's memory, which a child
        # shares between fork and exec.
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
