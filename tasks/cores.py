"""How many cores this process may use."""

from __future__ import annotations

import os

_taken: int | None = None


def count_workers(workers: int) -> int:
    """Turn the param ``compute.workers`` into a number; 0 is all cores given to this process."""
    if _taken is not None:
        return _taken
    if workers:
        return workers
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def take_cores(count: int) -> None:
    """Take so many, whatever params say: others of the same cluster compute on this machine too."""
    global _taken
    _taken = count
