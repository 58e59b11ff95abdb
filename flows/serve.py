"""Everything the Prefect UI needs, in one process: servers found or started, forms registered, runs run."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast
from uuid import UUID

from flows.reach import answers
from flows.runner import RETRIES
from tasks import console
from tasks.errors import UserError
from tasks.lifetime import watched_by_children
from tasks.workspace import WORK

HOST = "127.0.0.1"
START_SECONDS = 600.0
_STOP_SECONDS = 20.0
_POLL_SECONDS = 3.0
_MLFLOW_WORKERS = "2"  # of 200 MB each; by itself it starts four


def serve(
    project: Path, *, limit: int = 1, port: int = 4200, mlflow_port: int = 5000, work_pool: str | None = None
) -> None:
    """Serve the project's deployments until stopped.

    Parameters
    ----------
    project : Path
        Folder with ``params.yaml`` and ``dvc.yaml``.
    limit : int
        Runs that go at once; further ones wait in line.
    port, mlflow_port : int
        Where servers are started if there are none yet.
    work_pool : str, optional
        Register the deployments for this work pool and return: workers run them.

    Raises
    ------
    UserError
        The project's params are wrong, it is served already, or a server does not come up.
    """
    from flows.versioning import prepare
    from tasks.params import read_params

    project = project.resolve()
    read_params(project / "params.yaml")
    prepare(project)
    (project / WORK).mkdir(exist_ok=True)
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", RETRIES)
    os.environ.update(DSRG_PROJECT=str(project), DSRG_TRACKING_ROOT=str(project))
    with contextlib.ExitStack() as stack:
        if work_pool is None:
            stack.enter_context(_only_once(project))
        api_url = stack.enter_context(find_prefect(project, port=port))
        stack.enter_context(_talk_to(api_url))
        if work_pool is not None:
            _register_for_pool(project, work_pool, limit=limit)
            return
        tracking = stack.enter_context(find_mlflow(project, port=mlflow_port))
        os.environ["DSRG_MLFLOW_URL"] = tracking
        console.say(f"Prefect  {api_url.removesuffix('/api')}/deployments")
        console.say(f"MLflow   {tracking}")
        _run(project, limit=limit)


def _run(project: Path, *, limit: int) -> None:
    """Register the deployments, settle what a dead server process left, and run what the UI asks for."""
    from prefect.client.orchestration import get_client
    from prefect.exceptions import TerminationSignal
    from prefect.runner import Runner

    from flows.deployments import build_deployment, limit_runs, list_offers
    from flows.limits import ensure_gpu_limit
    from flows.orphans import settle_orphans
    from tasks.params import read_params

    os.environ.update(watched_by_children())  # runs must not outlive this process: nobody would cancel them
    # the server alone would let any of those that wait go next, after up to 30 s
    runner = Runner(name="dsrg", limit=limit, query_seconds=_POLL_SECONDS)
    offers = list_offers(read_params(project / "params.yaml"))
    ids = [cast(UUID, runner.add_deployment(build_deployment(offer))) for offer in offers]
    ensure_gpu_limit()
    with get_client(sync_client=True) as client:
        limit_runs(client, ids, limit=limit)
        settle_orphans(client, ids)
    console.say(
        f"serving  {', '.join(offer.name for offer in offers)}; at most {limit} at once. Stop: Ctrl-C"
    )
    with contextlib.suppress(KeyboardInterrupt, TerminationSignal):
        asyncio.run(runner.start())


def _register_for_pool(project: Path, work_pool: str, *, limit: int) -> None:
    from prefect.client.orchestration import get_client

    from flows.deployments import (
        build_deployment,
        ensure_work_pool,
        limit_runs,
        list_offers,
        offer_join,
    )
    from flows.limits import ensure_gpu_limit
    from tasks.params import read_params

    offers = list_offers(read_params(project / "params.yaml"))
    with get_client(sync_client=True) as client:
        ensure_work_pool(client, work_pool)
        *ids, _ = (
            cast(UUID, build_deployment(offer, work_pool=work_pool, project=project).apply())
            for offer in [*offers, offer_join()]  # the last is no run that waits in line
        )
        ensure_gpu_limit()
        limit_runs(client, ids, limit=limit)
    console.say(f"registered for work pool {work_pool}: {', '.join(offer.name for offer in offers)}")
    console.say(f"run them: cd {project} && prefect worker start --pool {work_pool}")


@contextlib.contextmanager
def find_prefect(project: Path, *, port: int) -> Iterator[str]:
    """Find Prefect's server, or start one that lasts as long as this context; give its API's address."""
    from prefect.settings import get_current_settings

    named = get_current_settings().api.url
    if named:
        if not answers(f"{named}/health"):
            raise UserError(f"PREFECT_API_URL names {named}, where no server answers: start it, or unset it")
        yield named
        return
    url = f"http://{HOST}:{port}/api"
    if answers(f"{url}/health"):
        yield url
        return
    command = ["prefect", "server", "start", "--host", HOST, "--port", str(port)]
    with _server("Prefect", command, project, f"{url}/health", log="prefect-server.log"):
        yield url


@contextlib.contextmanager
def _talk_to(api_url: str) -> Iterator[None]:
    """Make Prefect's client here, and that of every process started here, use a server."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    os.environ["PREFECT_API_URL"] = api_url
    with temporary_settings({PREFECT_API_URL: api_url}):
        yield


@contextlib.contextmanager
def find_mlflow(project: Path, *, port: int) -> Iterator[str]:
    """Find MLflow's UI, or start one that lasts as long as this context; give its address."""
    from tasks.tracking_places import locate_tracking
    from tasks.workspace import Workspace

    store = locate_tracking(Workspace(project))
    if store.startswith("http"):
        yield store.rstrip("/")
        return
    url = f"http://{HOST}:{port}"
    if answers(f"{url}/health"):
        yield url
        return
    command = ["mlflow", "ui", "--backend-store-uri", store, "--host", HOST, "--port", str(port)]
    command += ["--workers", _MLFLOW_WORKERS]
    with _server("MLflow", command, project, f"{url}/health", log="mlflow-server.log"):
        yield url


@contextlib.contextmanager
def _server(what: str, arguments: list[str], project: Path, health: str, *, log: str) -> Iterator[None]:
    place = project / WORK / log
    console.say(f"{what}'s server starts; its log: {place.relative_to(project)}")
    with place.open("w", encoding="utf-8") as file:
        # a group of its own: Ctrl-C must reach the runs first, which still have to say how they ended
        child = subprocess.Popen(
            [sys.executable, "-m", "tasks.lifetime", *arguments],
            cwd=project / WORK,
            env={
                **os.environ,
                **watched_by_children(),
                "MLFLOW_DISABLE_TELEMETRY": "true",
                # by itself the page asks port 4200 of 127.0.0.1, whichever port it came from
                "PREFECT_UI_API_URL": os.environ.get("PREFECT_UI_API_URL", "/api"),
                "PREFECT_SERVER_SERVICES_LATE_RUNS_ENABLED": "false",  # who waits in line is not late
                "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # seven processes for jobs nobody starts
            },
            stdout=file,
            stderr=subprocess.STDOUT,
            process_group=0,
        )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(health):
            if child.poll() is not None:
                last = (place.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""])[-1]
                raise UserError(f"{what}'s server ended at once: {last} (all of it: {place})")
            if time.monotonic() > deadline:
                raise UserError(f"{what}'s server did not answer in {START_SECONDS:.0f} s: see {place}")
            time.sleep(0.5)
        yield
    finally:
        child.terminate()
        try:
            child.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


@contextlib.contextmanager
def _only_once(project: Path) -> Iterator[None]:
    place = project / WORK / "serve.lock"
    with place.open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise UserError(
                f"`{project}` is served already, by process {file.read().strip()}: use that, or stop it"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
