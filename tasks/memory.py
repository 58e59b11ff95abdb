"""Memory that stays with a process once it is freed, for what is asked for next."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from functools import cache

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4  # of glibc's malloc.h
_LARGEST_KEPT = 32 << 20  # bytes; glibc allows no more


@cache
def keep_freed_memory(*, of_any_size: bool = False) -> None:
    """Have memory that is freed stay with the process.

    By default glibc gives it back to the system, at once in all threads but the first, and gets it anew page
    by page, each of which the system clears: a fifth of the time of a CRF in threads, and of a training step
    (``python -m bench.training``). With other C libraries nothing happens.

    Parameters
    ----------
    of_any_size : bool
        Also what is larger than 32 MB, as the features of a training's batch are, and always the same sizes.
        Where sizes vary it would be torn to pieces.
    """
    with suppress(OSError, AttributeError):
        set_option = ctypes.CDLL("libc.so.6").mallopt
        set_option(_M_MMAP_THRESHOLD, _LARGEST_KEPT)
        set_option(_M_TRIM_THRESHOLD, 2**31 - 1)
        if of_any_size:
            set_option(_M_MMAP_MAX, 0)
