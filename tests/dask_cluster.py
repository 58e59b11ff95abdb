"""A Dask cluster of real processes on loopback: a scheduler, and workers that can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PATHS = os.pathsep.join(map(str, (TESTS.parent, TESTS, TESTS / "pipeline")))  # also of what tests map


class DaskCluster:
    """A scheduler and its workers.

    Attributes
    ----------
    address : str
        What ``compute.cluster`` is to be.
    workers : list of Popen
    """

    def __init__(self, folder: Path, environment: dict[str, str] | None = None) -> None:
        self.workers: list[subprocess.Popen[bytes]] = []
        self._folder = folder
        self._environment = environment or {}
        place = folder / "scheduler.json"
        self._scheduler = self._start(
            "scheduler", "--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0",
            *("--scheduler-file", str(place)),
        )  # fmt: skip
        self.address = str(self._read(place)["address"])

    def add_worker(
        self, *arguments: str, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a worker of one thread; no nanny starts it anew when it is killed."""
        worker = self._start(
            *("worker", self.address, "--host", "127.0.0.1", "--no-nanny", "--nthreads", "1"),
            *("--no-dashboard", "--local-directory", str(self._folder), *arguments),
            environment=environment,
        )
        self.workers.append(worker)
        return worker

    def stop(self) -> None:
        """End all."""
        for process in (*self.workers, self._scheduler):
            process.kill()
            process.wait()

    def stop_scheduler(self) -> None:
        """End the scheduler alone."""
        self._scheduler.kill()
        self._scheduler.wait()

    def _start(
        self, what: str, *arguments: str, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        with (self._folder / f"{what}-{len(self.workers)}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "distributed.cli.dask_" + what, *arguments],
                cwd=self._folder,  # not the project's: paths must say where things are
                env={
                    **os.environ,
                    "PYTHONPATH": PATHS,
                    "OMP_NUM_THREADS": "1",
                    **self._environment,
                    **(environment or {}),
                },
                stdout=log,
                stderr=log,
            )

    def _read(self, place: Path) -> dict[str, object]:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
                return dict(json.loads(place.read_text()))
            time.sleep(0.05)
        raise AssertionError("the scheduler did not start")


@contextlib.contextmanager
def start_cluster(
    folder: Path, *, workers: int, environment: dict[str, str] | None = None
) -> Iterator[DaskCluster]:
    """Start a scheduler and so many workers."""
    cluster = DaskCluster(folder, environment)
    try:
        for _ in range(workers):
            cluster.add_worker()
        yield cluster
    finally:
        cluster.stop()
