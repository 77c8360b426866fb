"""Keeps freed memory while frames are made, which would ask for the same pages again and again; then returns it."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST_KEPT = 32 << 20  # a block, bytes: the most that glibc takes
MOST_KEPT = 256 << 20


@cache
def keep_freed_memory() -> None:
    """Keep blocks of up to 32 MB, 256 MB in all, instead of returning them; a fifth of a frame's time. glibc only."""
    mallopt = _of_glibc("mallopt")
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, LARGEST_KEPT)
        mallopt(TRIM_THRESHOLD, MOST_KEPT)


def return_freed_memory() -> None:
    """Give what was freed in all threads back to the system, which they would hold on to; milliseconds. glibc only."""
    trim = _of_glibc("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def _of_glibc(name: str) -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
