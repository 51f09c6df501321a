"""An allocator that keeps its pages: on CPUs it makes large frames a third faster, dense or not."""

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
    """Make this process keep the memory that it frees, for its next use.

    glibc gives every large buffer back to the system when it is freed and gets it again, zeroed
    page by page, for the next layer. At 1024x2048 px that is a fifth to a third of a frame's time.
    The setting applies to the whole process, whose memory then does not shrink. That is why you
    have to make it yourself, before the first large tensor. ``MALLOC_MMAP_MAX_=0
    MALLOC_TRIM_THRESHOLD_=-1`` in the environment, or jemalloc by ``LD_PRELOAD``, do the same.

    Returns:
        The allocator that serves the process now: a preloaded one that keeps pages by itself, such
        as ``'jemalloc (LD_PRELOAD)'``; ``'glibc, pages retained (mallopt)'``; or ``'system
        default'`` if neither applies and nothing was changed.

    Examples:
        >>> bc.retain_pages()
        'glibc, pages retained (mallopt)'
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
