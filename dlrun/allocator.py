"""How the C library keeps freed memory."""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Let the process keep freed memory for the next tensor, instead of giving it back to the system each time.

    glibc serves large blocks by mapping fresh pages and unmaps them when they are freed, so every large activation of
    every step on the CPU is paid for with page faults: measured on two cores, about half the time of pooling and batch
    norm on 64 channels of 32x32 at batch 512. The price is that the process stays as large as it once was.

    Returns:
        Whether the C library could be told: glibc only.

    Source: mallopt(3), M_MMAP_MAX and M_TRIM_THRESHOLD
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(libc.mallopt(_M_MMAP_MAX, 0)) and bool(libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
