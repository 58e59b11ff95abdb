"""What can be written to an MLflow run: entries, plain enough for a file, and how each is written.

Writing the same entry twice leaves what writing it once leaves: what was cut off can be repeated.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tasks import console
from tasks.tracking_model import register_model
from tasks.tracking_spool import Entry

_PER_BATCH = 100  # params and tags; MLflow's own limit
_METRICS_PER_BATCH = 1000
_LOGGED = "mlflow.dsrg.logged."  # MLflow shows no tags of its own
_CHANGED = "dsrg.params_changed"


def write_entry(client: Any, run_id: str, entry: Entry) -> None:
    """Write one entry to a run.

    Parameters
    ----------
    client : MlflowClient
    run_id : str
    entry : dict
        ``kind`` names one of the functions below, the rest is what it is called with.
    """
    values = {key: value for key, value in entry.items() if key != "kind"}
    _WRITERS[entry["kind"]](client, run_id, **values)


def is_refusal(error: Exception) -> bool:
    """Tell whether MLflow answered, and refused; everything else may be tried again later."""
    from mlflow.exceptions import MlflowException

    return isinstance(error, MlflowException) and error.get_http_status_code() in (400, 404, 409)


def _write_metrics(client: Any, run_id: str, *, rows: list[tuple[str, float, int, int]]) -> None:
    """Write numbers: (name, value, step, time in ms)."""
    from mlflow.entities import Metric

    metrics = [Metric(name, value, when, step) for name, value, step, when in rows]
    for start in range(0, len(metrics), _METRICS_PER_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + _METRICS_PER_BATCH])


def _write_points(client: Any, run_id: str, *, points: Mapping[str, Mapping[str, float]], when: int) -> None:
    """Write the points of curves, by name and step, but those that the run has with the same value."""
    known = set(client.get_run(run_id).data.metrics)
    rows = []
    for name, values in points.items():
        history = client.get_metric_history(run_id, name) if name in known else []
        held = {point.step: point.value for point in sorted(history, key=lambda point: point.timestamp)}
        rows += [
            (name, value, int(step), when) for step, value in values.items() if held.get(int(step)) != value
        ]
    _write_metrics(client, run_id, rows=rows)


def _write_params(client: Any, run_id: str, *, params: Mapping[str, str]) -> None:
    """Write params. MLflow never changes one: where a later run has another value, a tag says so."""
    from mlflow.entities import Param

    data = client.get_run(run_id).data
    new = [Param(key, value) for key, value in params.items() if key not in data.params]
    for start in range(0, len(new), _PER_BATCH):
        client.log_batch(run_id, params=new[start : start + _PER_BATCH])
    changed = [f"{key}={value}" for key, value in params.items() if data.params.get(key, value) != value]
    if changed or _CHANGED in data.tags:
        client.set_tag(run_id, _CHANGED, ", ".join(changed) or "none")


def _write_tags(client: Any, run_id: str, *, tags: Mapping[str, str]) -> None:
    from mlflow.entities import RunTag

    rows = [RunTag(key, value) for key, value in tags.items()]
    for start in range(0, len(rows), _PER_BATCH):
        client.log_batch(run_id, tags=rows[start : start + _PER_BATCH])


def _write_files(client: Any, run_id: str, *, group: str, digest: str, files: Mapping[str, str]) -> None:
    """Upload files under their names in MLflow, unless the run has this state of the group already."""
    if client.get_run(run_id).data.tags.get(_LOGGED + group) == digest:
        return
    with tempfile.TemporaryDirectory() as place:
        for name, path in files.items():
            target = Path(place) / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
        client.log_artifacts(run_id, place)
    _write_tags(client, run_id, tags={_LOGGED + group: digest})


def _write_dataset(client: Any, run_id: str, *, name: str, digest: str, source: str) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(name=name, digest=digest, source_type="dvc", source=source)
    client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def _write_model(client: Any, run_id: str, *, files: Mapping[str, str], **about: Any) -> None:
    message = register_model(client, run_id, files["weights"], **about)
    if message:
        console.say(message)


def _write_end(client: Any, run_id: str, *, status: str, when: int) -> None:
    client.set_terminated(run_id, status=status, end_time=when)


_WRITERS: dict[str, Callable[..., None]] = {
    "metrics": _write_metrics,
    "points": _write_points,
    "params": _write_params,
    "tags": _write_tags,
    "files": _write_files,
    "dataset": _write_dataset,
    "model": _write_model,
    "end": _write_end,
}
