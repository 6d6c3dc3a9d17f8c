"""What the backend needs of its process.

In: nothing. Out: `prepare`. Promise: done as often as one likes; results do not depend on it.
"""

from __future__ import annotations

import ctypes
import platform

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_NEVER = (1 << 31) - 1
_LARGEST = 1 << 30


def prepare() -> None:
    """Has glibc keep what the library's kernels give back: they allocate their results at every call, and memory that comes anew
    from the system each time costs a page fault for every 4 KiB, 10 to 30% of a step."""
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _LARGEST)
        libc.mallopt(_M_TRIM_THRESHOLD, _NEVER)
