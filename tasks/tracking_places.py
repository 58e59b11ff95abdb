"""Where MLflow's runs are: which server or file, which experiment, which run."""

from __future__ import annotations

import fcntl
import functools
import logging
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from tasks.workspace import WORK, Workspace

STUDY = "study"
ANSWER_SECONDS = 5.0
_DEFAULTS = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "GIT_PYTHON_REFRESH": "quiet",
    # MLflow's own 7 retries with doubling waits hold a training up for minutes when a server dies
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
}
_HOME = "DSRG_TRACKING_ROOT"


@dataclass(frozen=True)
class Target:
    """Which run is meant; found again by `experiment`, `study` and `stage`.

    Attributes
    ----------
    experiment : str
        Name of the data set.
    study : str
        Digest of its params, see :func:`digest_study`.
    stage : str
        ``study`` for the parent; a stage with its round: ``train@1``.
    began : int
        Milliseconds since 1970.
    """

    experiment: str
    study: str
    stage: str
    began: int

    @property
    def parent(self) -> Target:
        """The study's own run."""
        return Target(self.experiment, self.study, STUDY, self.began)

    @property
    def name(self) -> str:
        """What MLflow shows."""
        return f"{self.experiment}-{self.study[:6]}" if self.stage == STUDY else self.stage


def locate_home(workspace: Workspace) -> Path:
    """Locate the project that keeps the runs; another than the workspace for runs in folders of their own."""
    return Path(os.environ.get(_HOME) or workspace.root).resolve()


def locate_tracking(workspace: Workspace) -> str:
    """Locate where runs go: the user's server if one is set, else ``mlflow.db`` in the project."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{locate_home(workspace) / 'mlflow.db'}"


def locate_pages() -> str | None:
    """Locate MLflow's pages, where a server shows them."""
    named = os.environ.get("DSRG_MLFLOW_URL") or os.environ.get("MLFLOW_TRACKING_URI", "")
    return _hide_login(named) if named.startswith(("http:", "https:")) else None


def name_place(workspace: Workspace) -> str:
    """Name where entries of the spool are meant to go; a project that moves keeps its own."""
    return _hide_login(os.environ.get("MLFLOW_TRACKING_URI") or "mlflow.db")


def _hide_login(uri: str) -> str:
    return re.sub(r"(?<=://)[^/@]*@", "", uri).rstrip("/")


def reach(uri: str, home: Path) -> Any:
    """Connect, or fail soon: MLflow's own client would try for long."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    if uri.startswith(("http:", "https:")):
        place = _hide_login(uri)
        try:
            urlopen(f"{place}/health", timeout=ANSWER_SECONDS).close()
        except HTTPError:
            pass  # an answer
        except (URLError, OSError) as error:
            raise ConnectionError(f"no answer from {place} ({getattr(error, 'reason', error)})") from None
    return _connect(uri, home / WORK)


@functools.lru_cache(maxsize=4)
def _connect(uri: str, work: Path) -> Any:
    """Connect, one process at a time: two that create the database at once break it."""
    import mlflow

    # of a full disk it would log the whole traceback, before the error that we tell in a line
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    work.mkdir(parents=True, exist_ok=True)
    with (work / "mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client = mlflow.MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def find_run(client: Any, target: Target, home: Path) -> str:
    """Find a run, or make it; a finished training is never continued."""
    experiment = _find_experiment(client, target.experiment, home)
    query = f"tags.`dsrg.study` = '{target.study}' and tags.`dsrg.stage` = '{target.stage}'"
    if target.stage != STUDY:
        query += " and attributes.status != 'FINISHED'"
    found = client.search_runs([experiment], query, max_results=1)
    if found:
        if target.stage != STUDY:
            client.update_run(found[0].info.run_id, status="RUNNING")
        return str(found[0].info.run_id)
    tags = {"dsrg.study": target.study, "dsrg.stage": target.stage}
    if target.stage != STUDY:
        tags["mlflow.parentRunId"] = find_run(client, target.parent, home)
    run = client.create_run(experiment, start_time=target.began, run_name=target.name, tags=tags)
    return str(run.info.run_id)


def _find_experiment(client: Any, name: str, home: Path) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    local = str(client.tracking_uri).startswith("sqlite:")
    place = (home / "mlartifacts").as_uri() + f"/{name}" if local else None
    tags = {"mlflow.experimentKind": "custom_model_development"}  # else its pages open on language models
    return str(client.create_experiment(name, artifact_location=place, tags=tags))


def read_clock() -> int:
    return int(time.time() * 1000)
