"""Work handed to a Dask cluster: one of this machine, started by the stage, or one that runs already.

Its workers call the same functions with the same jobs as processes of this machine would, so that the bytes
are the same, and what a worker that died was at, another does anew. They find the project's files where this
process finds them, on a file system that all share, and must run the same code with the same packages,
which each of them is asked before it does anything.
"""

from __future__ import annotations

import atexit
import hashlib
import logging
import socket
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache, partial
from importlib.metadata import PackageNotFoundError, version
from typing import Any, TypeVar

from tasks import console
from tasks.cores import count_workers, take_cores
from tasks.errors import UserError
from tasks.memory import keep_freed_memory
from tasks.prepared import begin_work
from tasks.shards import begin_ahead
from tasks.workspace import hash_code

LOCAL = "local"
CONNECT_SECONDS = 30.0
_AHEAD = 2  # jobs handed out for each thread of the workers: the driver holds no more, however many there are
_PACKAGES = ("numpy", "torch", "numba", "openvino", "onnxruntime", "zarr", "scipy", "pillow", "timm")

_SAID, _DASHBOARD = "Dask     ", "dashboard "
_open: list[Any] = []

Job = TypeVar("Job")
Result = TypeVar("Result")


def map_on_cluster(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, cluster: str, workers: int, description: str
) -> Iterator[Result]:
    """Call `function` on every job, on the workers of a cluster, and yield the results in the jobs' order.

    Parameters
    ----------
    function, jobs, description
        As of :func:`tasks.shards.map_shards`.
    cluster : str
        The param ``compute.cluster``: ``local``, or the address of a scheduler.
    workers : int
        Processes of a ``local`` cluster; 0 is one for every core.

    Raises
    ------
    UserError
        The cluster cannot be reached, went away, has no workers, or they are not fit for this project.
    """
    results = begin_on_cluster(function, jobs, cluster=cluster, workers=workers)
    yield from console.track(results, description, total=len(jobs)) if jobs else ()


def begin_on_cluster(
    function: Callable[[Job], Result], jobs: Sequence[Job], *, cluster: str, workers: int
) -> Iterator[Result]:
    """Connect, and have every job done as :func:`map_on_cluster` does, but leave it to others to show it."""
    if not jobs:  # all were done before: nobody need be there
        return iter(())
    client = _connect(cluster, workers)
    call = partial(_call, _describe_code(), uuid.uuid4().hex, function)
    ahead = _AHEAD * count_threads(cluster, workers)
    futures = begin_ahead(partial(client.submit, call, pure=False), jobs, ahead)
    return (_take(future, cluster) for future in futures)  # those that nobody takes, Dask cancels


def count_threads(cluster: str, workers: int) -> int:
    """Connect, and count the threads of all workers."""
    threads: dict[str, int] = _connect(cluster, workers).nthreads()
    return max(1, sum(threads.values()))


def _take(future: Any, cluster: str) -> Any:
    """Wait for a job's result; what went wrong with the cluster, not with the job, is said in one line."""
    from distributed import CancelledError, KilledWorker
    from distributed.comm.core import CommClosedError

    try:
        return future.result()
    except KilledWorker as error:
        raise UserError(
            "several Dask workers died one after the other at the same work, most likely because memory ran "
            "out: give them more, or let fewer work at a time; finished work was kept"
        ) from error
    except (CancelledError, CommClosedError) as error:
        raise UserError(
            f"the Dask cluster {cluster} went away; finished work was kept: "
            "the same command continues there once it is back"
        ) from error
    except RuntimeError as error:
        if "deserialization of the task graph" not in str(error):
            raise
        raise UserError(
            f"the Dask cluster {cluster} cannot import this project: start its scheduler and its workers in "
            "an environment in which it is installed"
        ) from error


@atexit.register
def disconnect() -> None:
    """Let go of all clusters, and end a ``local`` one."""
    while _open:
        with suppress(Exception):  # it may have gone away
            _open.pop().close()
    _connect.cache_clear()


@cache
def _connect(cluster: str, workers: int) -> Any:
    """Connect to a cluster, once a process; a ``local`` one is started, and ends with this process."""
    try:
        import distributed
    except ImportError as error:
        raise UserError(
            f"compute.cluster={cluster} needs Dask: pip install 'dsrg[cluster]', or set compute.cluster=none"
        ) from error
    dask: Any = distributed  # it has no types
    logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what matters is said by this module
    if cluster == LOCAL:
        own = dask.LocalCluster(
            n_workers=count_workers(workers),
            threads_per_worker=1,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,  # the system's own limit counts, as it does without a cluster
            silence_logs=logging.CRITICAL,
        )
        _open.append(own)
        client = dask.Client(own, set_as_default=False)
    else:
        try:
            client = dask.Client(cluster, timeout=CONNECT_SECONDS, set_as_default=False)
        except (OSError, ValueError) as error:
            raise UserError(
                f"no Dask scheduler answers at {cluster}: start one (dask scheduler), or set "
                "compute.cluster to `local` or `none`"
            ) from error
    _open.append(client)  # closed before its cluster
    try:
        client.wait_for_workers(1, timeout=CONNECT_SECONDS)
    except TimeoutError as error:
        raise UserError(
            f"the Dask cluster {cluster} has no workers: start some (dask worker {cluster})"
        ) from error
    count = len(client.nthreads())
    noun = "worker" if count == 1 else "workers"
    console.say(f"{_SAID}{count} {noun}, {_DASHBOARD}{client.dashboard_link}")
    return client


def parse_dashboard(line: str) -> str | None:
    """Find the address of a cluster's dashboard in what a stage said; None in all other lines."""
    _, found, link = line.partition(_DASHBOARD) if line.startswith(_SAID) else ("", "", "")
    return link if found else None


def _call(code: str, work: str, function: Callable[[Job], Result], job: Job) -> Result:
    """Do a job, in a worker."""
    from distributed import get_worker

    if _describe_code() != code:
        raise UserError(
            f"a Dask worker on {socket.gethostname()} runs other code or other packages than this project: "
            "start it anew, in the same environment"
        )
    take_cores(get_worker().state.nthreads)
    keep_freed_memory()
    begin_work(work)
    return function(job)


def describe_code() -> str:
    """Digest the project's code, and the versions of what computes."""
    lines = [hash_code(), "{}.{}".format(*sys.version_info[:2])]
    for name in _PACKAGES:
        try:
            lines.append(version(name))
        except PackageNotFoundError:
            lines.append("")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


_describe_code = cache(describe_code)  # as it was when first asked for, which is what was imported
