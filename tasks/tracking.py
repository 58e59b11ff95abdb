"""MLflow, behind one class; with the modules ``tracking_…`` all that imports it, when a run is opened.

Layout: one experiment per data set; one parent run per study (equal params but those of the machine),
with step = round; one child run per training, with step as the stage counts. Everything goes to
``mlflow.db`` and ``mlartifacts/`` in the project unless ``MLFLOW_TRACKING_URI`` names a server.

Tracking never costs a training: if MLflow fails, one warning says so, the stage goes on, and what
MLflow was to be told is kept (:mod:`tasks.tracking_spool`) until a later run reaches it.
"""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from tasks import console
from tasks.params import Params
from tasks.tracking_entries import is_refusal, write_entry
from tasks.tracking_places import (
    STUDY,
    Target,
    find_run,
    locate_home,
    locate_tracking,
    name_place,
    reach,
    read_clock,
)
from tasks.tracking_spool import FOLDER, Entry, Spool, deliver, drop_superseded, list_waiting
from tasks.workspace import Workspace

BUFFERED_METRICS = 200
FLUSH_SECONDS = 5.0
SYSTEM_SECONDS = 10.0
_TAGS = {
    "prefect.flow_run_id": "DSRG_FLOW_RUN_ID",
    "prefect.flow_run_url": "DSRG_FLOW_RUN_URL",
    "dvc.experiment": "DSRG_EXPERIMENT",
    "bench.row": "DSRG_BENCH_ROW",
    "bench.seed": "DSRG_BENCH_SEED",
}


class Run:
    """A run that is being written to; no method raises when MLflow fails.

    Parameters
    ----------
    client : MlflowClient or None
        None where MLflow does not answer: everything goes to the spool.
    run_id : str or None
        MLflow's id.
    spool : Spool, optional
        Takes what MLflow does not; without one nothing is kept.
    info : RunInfo, optional
        What MLflow knows of the run.
    """

    def __init__(self, client: Any, run_id: str | None, spool: Spool | None = None, info: Any = None) -> None:
        self.run_id = run_id
        self.began = info.start_time if info else read_clock()
        self.experiment_id = info.experiment_id if info else None
        self.ended: int | None = None  # now, if left so
        self._client = client
        self._spool = spool
        self._buffer: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()
        self._lock = threading.RLock()

    @property
    def reached(self) -> bool:
        """Whether MLflow has taken everything so far."""
        return self._client is not None

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log params, nested mappings as dotted keys, values as ``params.yaml`` spells them."""
        self._write({"kind": "params", "params": {key: _spell(v) for key, v in flatten(params).items()}})

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log numbers at a step; written in batches."""
        now = read_clock()
        with self._lock:
            self._buffer += [(name, float(value), step, now) for name, value in metrics.items()]
            if len(self._buffer) >= BUFFERED_METRICS or time.monotonic() - self._flushed > FLUSH_SECONDS:
                self.flush()

    def log_points(self, points: Mapping[str, Mapping[int, float]]) -> None:
        """Log whole curves, by name and step; points that are there already are not repeated."""
        keyed = {name: {str(step): value for step, value in curve.items()} for name, curve in points.items()}
        self._write({"kind": "points", "points": keyed, "when": read_clock()})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._write({"kind": "tags", "tags": dict(tags)})

    def log_files(self, group: str, files: Mapping[str, Path]) -> None:
        """Log files under their names in MLflow; a group that has not changed is not uploaded again."""
        digest = hashlib.sha256()
        for name, path in sorted(files.items()):
            digest.update(f"{name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
        paths = {name: str(path) for name, path in files.items()}
        self._write({"kind": "files", "group": group, "digest": digest.hexdigest(), "files": paths})

    def log_dataset(self, name: str, digest: str, source: str) -> None:
        """Log the data set that the run learns from; the digest holds at most 36 characters."""
        self._write({"kind": "dataset", "name": name, "digest": digest, "source": source})

    def log_model(self, weights: Path, **about: Any) -> None:
        """Register a segmenter, see :func:`tasks.tracking_model.register_model`."""
        self._write({"kind": "model", "files": {"weights": str(weights)}, **about})

    def flush(self) -> None:
        """Write buffered numbers."""
        with self._lock:
            rows, self._buffer = self._buffer, []
            self._flushed = time.monotonic()
        if rows:
            self._write({"kind": "metrics", "rows": rows})

    def end(self, status: str) -> None:
        """Write what is left, and how the run ended: `ended`, or now."""
        self.flush()
        self._write({"kind": "end", "status": status, "when": max(self.ended or read_clock(), self.began)})
        if self._spool is not None:
            self._spool.close()

    def _write(self, entry: Entry) -> None:
        with self._lock:
            if self._client is not None and self.run_id is not None:
                try:
                    write_entry(self._client, self.run_id, entry)
                    return
                except Exception as error:  # noqa: BLE001 - whatever MLflow raises must not cost a training
                    if is_refusal(error):
                        console.warn(f"MLflow refused {entry['kind']}, which are left out: {_shorten(error)}")
                        return
                    _tell_cut(error)
                    self._client = None
            if self._spool is not None:
                try:
                    self._spool.append(entry, run_id=self.run_id)
                except OSError as error:
                    console.warn(f"what MLflow was to be told cannot be kept either: {_shorten(error)}")
                    self._spool = None


@contextlib.contextmanager
def study_run(workspace: Workspace, params: Params, *, whole: bool = False) -> Iterator[Run]:
    """Open the parent run of a study, for numbers per round: step = round.

    Parameters
    ----------
    workspace : Workspace
    params : Params
    whole : bool
        All there is to say is going to be written: what waits for this run is dropped.
    """
    target = _name_target(params, STUDY)
    if whole:
        drop_superseded(locate_home(workspace), name_place(workspace), asdict(target))
    with _open(workspace, target) as run:
        run.set_tags(_list_tags(workspace, STUDY))
        yield run


@contextlib.contextmanager
def stage_run(workspace: Workspace, params: Params, stage: str) -> Iterator[Run]:
    """Open a run of one training below its study, and watch the machine; a killed one is continued.

    Parameters
    ----------
    workspace : Workspace
    params : Params
        All params; they say which study it is.
    stage : str
        With its round: ``train@1``.
    """
    with _open(workspace, _name_target(params, stage)) as run:
        run.set_tags(_list_tags(workspace, stage))
        run.log_params(params.model_dump(mode="json"))
        run.log_dataset(*describe_data(workspace, params))
        with _watch_machine(run):
            yield run


def name_data(params: Params) -> str:
    """Name the data set, which is the experiment: ``synthetic`` or the folder's name."""
    return params.source.name


def digest_study(params: Params) -> str:
    """Digest what makes a study: all params but those of machine and report, and the number of rounds."""
    values = params.model_dump(mode="json", exclude={"compute", "report", "rounds", "final_round"})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings into dotted keys.

    Examples
    --------
    >>> flatten({"crf": {"iterations": 10}, "lr": 0.1})
    {'crf.iterations': 10, 'lr': 0.1}
    """
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def count_waiting(workspace: Workspace) -> int:
    """Count the runs of which something waits until MLflow answers."""
    return len(list_waiting(locate_home(workspace), name_place(workspace)))


def locate_spool(workspace: Workspace) -> Path:
    """Locate what waits until MLflow answers."""
    return locate_home(workspace) / FOLDER


def read_lock(workspace: Workspace) -> dict[str, dict[str, Any]]:
    """Read what DVC recorded of every stage that ran; empty where DVC was not used."""
    try:
        text = workspace.path("dvc.lock").read_text(encoding="utf-8")
        return dict(YAML(typ="safe", pure=True).load(text)["stages"])
    except (FileNotFoundError, YAMLError, KeyError, TypeError):
        return {}


def read_attributes(workspace: Workspace) -> dict[str, Any]:
    """Read the attributes of ``data/images.zarr``, such as its classes; empty where it is not."""
    place = workspace.path("data/images.zarr")
    try:
        about = json.loads((place if place.is_file() else place / "zarr.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return dict(about.get("attributes", {}))


def describe_data(workspace: Workspace, params: Params) -> tuple[str, str, str]:
    """Describe the data set: name, digest (DVC's, or the store's own) and source."""
    outs = read_lock(workspace).get("ingest", {}).get("outs", [])
    digests = [out["md5"] for out in outs if out["path"] == "data/images.zarr"]
    digests += [str(read_attributes(workspace).get("digest", "unknown"))]
    source = json.dumps({"images": "data/images.zarr", "read from": params.source.path})
    return name_data(params), digests[0][:36], source


@contextlib.contextmanager
def _open(workspace: Workspace, target: Target) -> Iterator[Run]:
    home, place = locate_home(workspace), name_place(workspace)
    spool = Spool(home, place, asdict(target))
    client, info = None, None
    try:
        client = reach(locate_tracking(workspace), home)
        _deliver(client, home, place)
        info = client.get_run(find_run(client, target, home)).info
    except Exception as error:  # noqa: BLE001 - whatever MLflow raises must not cost a training
        if not list_waiting(home, place):  # said already, by the first that was cut off
            _tell_cut(error)
        client = None
    run = Run(client, info.run_id, spool, info) if info else Run(None, None, spool, info)
    try:
        yield run
    except Exception:
        run.end("FAILED")
        raise
    except BaseException:
        run.end("KILLED")
        raise
    run.end("FINISHED")


def _deliver(client: Any, home: Path, place: str) -> None:
    """Tell MLflow what it could not be told before."""

    def write(target: Mapping[str, Any], run_id: str | None, entries: Sequence[Entry]) -> None:
        refused: list[str] = []
        run = run_id
        for entry in entries:
            try:
                run = run or find_run(client, Target(**target), home)
                write_entry(client, run, entry)
            except Exception as error:
                if not is_refusal(error):
                    raise
                refused.append(f"{entry['kind']} of {target['stage']}: {_shorten(error)}")
        if refused:
            console.warn(f"MLflow refused what was kept, which is left out: {refused[0]}")

    count = deliver(home, place, write)
    if count:
        console.say(f"MLflow answers again: it was told what was kept of {count} run{'s' * (count > 1)}")


@contextlib.contextmanager
def _watch_machine(run: Run) -> Iterator[None]:
    """Log processor, memory, disk, network and GPU, as MLflow's own monitors measure them."""
    try:
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        monitor = SystemMetricsMonitor(run.run_id or "")
    except Exception as error:  # noqa: BLE001 - these numbers are an extra
        console.warn(f"the machine is not watched: {_shorten(error)}")
        yield
        return
    ended = threading.Event()

    def watch() -> None:
        while not ended.is_set():
            monitor.collect_metrics()
            ended.wait(SYSTEM_SECONDS)
            found = {f"system/{name}": value for name, value in monitor.aggregate_metrics().items()}
            run.log_metrics(found, step=(read_clock() - run.began) // 1000)
            for part in monitor.monitors:
                part.clear_metrics()

    thread = threading.Thread(target=watch, name="watch-machine", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _name_target(params: Params, stage: str) -> Target:
    return Target(name_data(params), digest_study(params), stage, read_clock())


def _list_tags(workspace: Workspace, stage: str) -> dict[str, str]:
    tags = {tag: os.environ[name] for tag, name in _TAGS.items() if os.environ.get(name)}
    commit = _read_commit(workspace.root)
    tags["mlflow.source.name"] = "dsrg" if stage == STUDY else f"python -m tasks {stage.replace('@', ' -r ')}"
    with contextlib.suppress(KeyError, OSError):  # a user without a name
        tags["mlflow.user"] = getpass.getuser()
    if commit:
        tags["mlflow.source.git.commit"] = commit
    if stage != STUDY:
        tags["dvc.stage"] = stage
    return tags


def describe_code(workspace: Workspace) -> dict[str, Any]:
    """Describe the code: ``commit``, and ``changed`` if it differs from it; empty without git."""
    commit = _read_commit(workspace.root)
    if commit is None:
        return {}
    changed = _ask_git(
        workspace.root, "diff", "--name-only", "HEAD", "--", "dsrg", "tasks", "flows", "dvc.yaml"
    )
    return {"commit": commit, "changed": bool(changed)}


def _read_commit(root: Path) -> str | None:
    return _ask_git(root, "rev-parse", "--verify", "--quiet", "HEAD")


def _ask_git(root: Path, *arguments: str) -> str | None:
    command = ["git", "-C", str(root), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def _spell(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _tell_cut(error: Exception) -> None:
    console.warn(f"MLflow does not work, the run goes on and keeps what is to be told: {_shorten(error)}")


def _shorten(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
