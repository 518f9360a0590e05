"""The memory that a trial takes: the largest resident set since it began, of a process that runs many."""

from __future__ import annotations

import contextlib
import re
import resource
import sys
from pathlib import Path

_MIB = 1 << 20


def begin_peak() -> None:
    """Forget the peak so far, where the system can (Linux)."""
    with contextlib.suppress(OSError):
        # proc(5): 5 resets the peak resident set size ("high water mark").
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """Largest resident set of this process since :func:`begin_peak` (not on Linux: since its start), in MiB."""
    with contextlib.suppress(OSError):
        found = re.search(r"^VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
        if found is not None:
            return int(found[1]) * 1024 / _MIB
    # getrusage(2): kilobytes, but bytes on macOS.
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / _MIB
