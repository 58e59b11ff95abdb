"""Work spread over threads, processes or a cluster: one job per shard, results in order, progress shown."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver
from typing import TypeVar

from tasks import console
from tasks.cores import count_workers
from tasks.errors import UserError
from tasks.lifetime import end_with
from tasks.memory import keep_freed_memory
from tasks.schema import NO_CLUSTER, Compute

_AHEAD = 16  # jobs begun for each thread or process, or one slow shard would hold up the others
_MOST_THREADS = 8  # more of them would wait for the interpreter's lock in the parts that hold it

Job = TypeVar("Job")
Result = TypeVar("Result")
Begun = TypeVar("Begun")


def map_shards(
    function: Callable[[Job], Result],
    jobs: Sequence[Job],
    *,
    compute: Compute,
    description: str,
    in_threads: bool = False,
    light: bool = False,
) -> Iterator[Result]:
    """Call `function` on every job and yield the results in the jobs' order.

    Parameters
    ----------
    function : callable
        At the top level of a module (or a :func:`functools.partial` of such), because it is pickled.
    jobs : sequence
        Small, picklable values such as row ranges and paths; never arrays of a whole store.
    compute : Compute
        Its `workers` are the jobs at a time; with 1, or one job, everything runs in this thread. Its
        `cluster`, if one is named, does all jobs instead.
    description : str
        Shown with the progress.
    in_threads : bool
        `function` spends its time in compiled code that lets go of the interpreter's lock: a few workers are
        threads then, which start at once and share what is open; processes take a second or two each.
    light : bool
        A job takes milliseconds, less than handing it out to processes would: this thread does all, if no
        cluster does.
    """
    if compute.cluster != NO_CLUSTER:
        from tasks.cluster import map_on_cluster

        yield from map_on_cluster(
            function, jobs, cluster=compute.cluster, workers=compute.workers, description=description
        )
        return
    count = 1 if light else min(count_workers(compute.workers), len(jobs))
    if count <= 1:
        for job in console.track(jobs, description):
            yield function(job)
        return
    if in_threads and count <= _MOST_THREADS:
        yield from console.track(map_in_threads(function, jobs, count), description, total=len(jobs))
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker) as pool:
        futures = begin_ahead(lambda job: pool.submit(function, job), jobs, count * _AHEAD)
        results = (future.result() for future in futures)
        try:
            yield from console.track(results, description, total=len(jobs))
        except BrokenProcessPool as error:
            raise UserError(
                f"a process at work on {description!r} was killed by the system, most likely because memory "
                "ran out: end what else needs it, or set compute.workers=1; finished shards were kept"
            ) from error
        except BaseException:
            processes = list(pool._processes.values())
            pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.terminate()
            raise


def map_in_threads(
    function: Callable[[Job], Result], jobs: Sequence[Job], threads: int, *, ahead: int | None = None
) -> Iterator[Result]:
    """Call `function` on every job, in so many threads, and yield the results in the jobs' order.

    Parameters
    ----------
    function : callable
    jobs : sequence
    threads : int
        With 1, or one job, everything runs in this thread, unless it may run ahead.
    ahead : int, optional
        Results that may wait, beside those being worked on: for large ones. None is some for each thread.
    """
    if len(jobs) <= 1 or (threads <= 1 and not ahead):
        yield from map(function, jobs)
        return
    keep_freed_memory()
    begun = threads * _AHEAD if ahead is None else threads + ahead
    pool = ThreadPoolExecutor(threads, thread_name_prefix="shards")
    try:
        for future in begin_ahead(lambda job: pool.submit(function, job), jobs, begun):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)  # after an error nothing new is begun


def begin_ahead(begin: Callable[[Job], Begun], jobs: Sequence[Job], ahead: int) -> Iterator[Begun]:
    """Begin jobs, at most so many ahead of what is taken, and yield what was begun in their order."""
    coming = deque(begin(job) for job in jobs[:ahead])
    for job in jobs[ahead:]:
        yield coming.popleft()
        coming.append(begin(job))
    while coming:
        yield coming.popleft()


def prepare_loaders(params_workers: int) -> None:
    """Start the process that loaders of training are forked from, while this one still imports and builds.

    It imports what they need, which takes seconds; without it, the first batch would wait for that.
    """
    if count_workers(params_workers) > 1:
        multiprocessing.set_forkserver_preload(["dsrg.samples"])
        forkserver.ensure_running()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    starter = multiprocessing.parent_process()
    if starter is not None and starter.pid is not None:
        end_with(starter.pid)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
