"""An allocator that keeps its pages, for dense and sparse alike.

glibc gives every large buffer back to the system when it is freed and gets it again, zeroed page
by page, for the next layer. Dense frames of 1024x2048 px lose a fifth to a third of their time with
that, so whoever wants the best dense speed runs another allocator. So do we, on both sides of a
comparison.
"""

from __future__ import annotations

import ctypes
import os
import platform

# glibc's malloc.h
_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_MAX = -4

_KEEPS_PAGES = ("jemalloc", "tcmalloc", "mimalloc")


def retain_pages() -> str:
    """Make this process keep the memory that it frees. Call it before the first large allocation.

    Returns:
        Which allocator serves the process now, for the record: a preloaded one that keeps pages by
        itself, ``'glibc, pages retained (mallopt)'``, or ``'system default'`` where neither is.
    """
    preloaded = os.environ.get("LD_PRELOAD", "")
    for name in _KEEPS_PAGES:
        if name in preloaded:
            return f"{name} (LD_PRELOAD)"
    if platform.libc_ver()[0] != "glibc":
        return "system default"
    libc = ctypes.CDLL(None)
    # No mmap for large buffers, and a heap that never shrinks and grows in large steps.
    done = (
        libc.mallopt(_M_MMAP_MAX, 0),
        libc.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1),
        libc.mallopt(_M_TOP_PAD, 64 * 2**20),
    )
    return "glibc, pages retained (mallopt)" if all(done) else "system default"
