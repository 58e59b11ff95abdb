"""Threads for compiled code that lets go of the interpreter lock."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

Job = TypeVar("Job")


def run_in_threads(function: Callable[[Job], None], jobs: Sequence[Job], *, threads: int) -> None:
    """Call `function` on every job; on as many at a time as there are threads, which are kept for next time.

    Parameters
    ----------
    function : callable
        Not one that calls `run_in_threads` itself: it would wait for threads that wait for it.
    jobs : sequence
    threads : int
        At least 1; with 1, or one job, everything is done in the caller's.

    Raises
    ------
    Exception
        What the first job to fail, in the order of jobs, raised.
    """
    threads = min(threads, len(jobs))
    if threads > 1:
        for _ in _start_pool(threads).map(function, jobs):
            pass
    else:
        for job in jobs:
            function(job)


@cache
def _start_pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="dsrg")
