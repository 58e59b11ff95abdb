"""MLflow, behind one class: the only module that imports it, and only when a run is opened.

Layout: one experiment per data set; one parent run per study (equal params but those of the machine),
with step = round; one child run per training, with step as the stage counts. Everything goes to
``mlflow.db`` and ``mlartifacts/`` in the workspace unless ``MLFLOW_TRACKING_URI`` names a server.

Tracking never costs a training: if MLflow fails, one warning says so and the stage goes on.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import logging
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tasks import console
from tasks.params import Params
from tasks.workspace import WORK, Workspace

BUFFERED_METRICS = 200
FLUSH_SECONDS = 5.0
_DEFAULTS = {
    "DO_NOT_TRACK": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SKIP_PIP_REQUIREMENTS_CHECK": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "GIT_PYTHON_REFRESH": "quiet",
}
_FLOW_RUN = "DSRG_FLOW_RUN_ID"


class Run:
    """A run that is being written to; every method is safe to call when MLflow has failed.

    Attributes
    ----------
    run_id : str or None
        MLflow's id; None where tracking does not work.
    """

    def __init__(self, client: Any, run_id: str | None) -> None:
        self.run_id = run_id
        self._client = client
        self._buffer: list[tuple[str, float, int, int]] = []
        self._flushed = time.monotonic()

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Log params, nested mappings as dotted keys."""
        flat = flatten(params)
        self._guard(lambda: self._log_batch(params=flat))

    def log_metrics(self, metrics: Mapping[str, float], *, step: int = 0) -> None:
        """Log numbers at a step; written in batches."""
        now = int(time.time() * 1000)
        self._buffer += [(name, float(value), step, now) for name, value in metrics.items()]
        if len(self._buffer) >= BUFFERED_METRICS or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags."""
        self._guard(lambda: self._log_batch(tags=dict(tags)))

    def log_image(self, key: str, image: NDArray[np.uint8], *, step: int = 0) -> None:
        """Log a picture, (H, W, 3) uint8; equal keys compare across runs and steps."""
        self._guard(lambda: self._client.log_image(self.run_id, image, key=key, step=step))

    def log_figure(self, name: str, figure: Any) -> None:
        """Log a matplotlib figure as an artifact; `name` carries the suffix: ``confusion.png``."""
        self._guard(lambda: self._client.log_figure(self.run_id, figure, name))

    def log_file(self, path: Path, *, folder: str | None = None) -> None:
        """Log a file as an artifact."""
        self._guard(lambda: self._client.log_artifact(self.run_id, str(path), folder))

    def log_model(
        self, weights: Path, *, name: str = "segmenter", scales: Sequence[float], flip: bool
    ) -> None:
        """Log a segmenter that MLflow can load and serve: pictures in, label maps out.

        Parameters
        ----------
        weights : Path
            A ``segmenter.safetensors``; it names its own architecture and classes.
        name : str
            The model's name in the run.
        scales : sequence of float
            Input scales that are averaged.
        flip : bool
            Whether the mirrored picture is averaged in.
        """
        self._guard(lambda: _log_model(self._client, str(self.run_id), weights, name, tuple(scales), flip))

    def flush(self) -> None:
        """Write buffered numbers."""
        rows, self._buffer = self._buffer, []
        self._flushed = time.monotonic()
        if rows:
            self._guard(lambda: self._log_batch(metrics=rows))

    def _log_batch(
        self,
        *,
        metrics: list[tuple[str, float, int, int]] | None = None,
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        self._client.log_batch(
            self.run_id,
            metrics=[Metric(name, value, when, step) for name, value, step, when in metrics or ()],
            params=[Param(key, str(value)) for key, value in (params or {}).items()],
            tags=[RunTag(key, value) for key, value in (tags or {}).items()],
        )

    def _guard(self, action: Callable[[], Any]) -> None:
        if self.run_id is None:
            return
        try:
            action()
        except Exception as error:  # noqa: BLE001 - whatever MLflow raises must not cost a training
            console.warn(f"MLflow failed and is left out from here on: {_shorten(error)}")
            self.run_id = None

    def _end(self, status: str) -> None:
        self.flush()
        self._guard(lambda: self._client.set_terminated(self.run_id, status=status))


@contextlib.contextmanager
def study_run(workspace: Workspace, params: Params) -> Iterator[Run]:
    """Open the parent run of a study, for numbers per round: step = round."""
    with _open(lambda: _find_study(workspace, params)) as run:
        yield run


@contextlib.contextmanager
def stage_run(workspace: Workspace, params: Params, stage: str) -> Iterator[Run]:
    """Open a run of one training below its study; a killed one is continued.

    Parameters
    ----------
    workspace : Workspace
    params : Params
        All params; they say which study it is.
    stage : str
        With its round: ``train@1``.
    """
    with _open(lambda: _find_stage(workspace, params, stage)) as run:
        yield run


def name_data(params: Params) -> str:
    """Name the data set, which is the experiment: ``synthetic`` or the folder's name."""
    return "synthetic" if params.source.kind == "synthetic" else Path(params.source.path).name


def digest_study(params: Params) -> str:
    """Digest what makes a study: all params but those of the machine and the report."""
    values = params.model_dump(mode="json", exclude={"compute", "report", "rounds"})
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


def locate_tracking(workspace: Workspace) -> str:
    """Locate where runs go: the user's server if one is set, else ``mlflow.db`` in the workspace."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{workspace.path('mlflow.db')}"


@contextlib.contextmanager
def _open(find: Callable[[], tuple[Any, str]]) -> Iterator[Run]:
    try:
        client, run_id = find()
    except Exception as error:  # noqa: BLE001 - whatever MLflow raises must not cost a training
        console.warn(f"MLflow does not work and is left out: {_shorten(error)}")
        yield Run(None, None)
        return
    run = Run(client, run_id)
    try:
        yield run
    except (KeyboardInterrupt, SystemExit):
        run._end("KILLED")
        raise
    except BaseException:
        run._end("FAILED")
        raise
    run._end("FINISHED")


@functools.lru_cache(maxsize=4)
def _connect(uri: str, work: Path) -> Any:
    """Connect, one process at a time: two that create the database at once break it."""
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    import mlflow

    work.mkdir(parents=True, exist_ok=True)
    with (work / "mlflow.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        client = mlflow.MlflowClient(tracking_uri=uri)
        client.search_experiments(max_results=1)
    return client


def _find_study(workspace: Workspace, params: Params) -> tuple[Any, str]:
    uri = locate_tracking(workspace)
    client = _connect(uri, workspace.path(WORK))
    experiment = _find_experiment(client, name_data(params), workspace, local=uri.startswith("sqlite:"))
    study = digest_study(params)
    found = client.search_runs(
        [experiment], f"tags.`dsrg.study` = '{study}' and tags.`dsrg.stage` = 'study'", max_results=1
    )
    if found:
        return client, found[0].info.run_id
    tags = {"dsrg.study": study, "dsrg.stage": "study", **_flow_tags()}
    run = client.create_run(experiment, run_name=f"{name_data(params)}-{study[:6]}", tags=tags)
    parent = Run(client, run.info.run_id)
    parent.log_params(params.model_dump(exclude={"compute", "report", "rounds"}))
    return client, run.info.run_id


def _find_stage(workspace: Workspace, params: Params, stage: str) -> tuple[Any, str]:
    client, parent = _find_study(workspace, params)
    study = client.get_run(parent)
    query = f"tags.`mlflow.parentRunId` = '{parent}' and tags.`dsrg.stage` = '{stage}'"
    unfinished = f"{query} and attributes.status != 'FINISHED'"
    found = client.search_runs([study.info.experiment_id], unfinished, max_results=1)
    if found:
        client.update_run(found[0].info.run_id, status="RUNNING")
        return client, found[0].info.run_id
    tags = {
        "dsrg.study": study.data.tags["dsrg.study"],
        "dsrg.stage": stage,
        "mlflow.parentRunId": parent,
        **_flow_tags(),
    }
    run = client.create_run(study.info.experiment_id, run_name=stage, tags=tags)
    return client, run.info.run_id


def _find_experiment(client: Any, name: str, workspace: Workspace, *, local: bool) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None:
        return str(found.experiment_id)
    place = workspace.path("mlartifacts").as_uri() + f"/{name}" if local else None
    return str(client.create_experiment(name, artifact_location=place))


def _flow_tags() -> dict[str, str]:
    flow_run = os.environ.get(_FLOW_RUN)
    return {"prefect.flow_run_id": flow_run} if flow_run else {}


def _log_model(
    client: Any, run_id: str, weights: Path, name: str, scales: tuple[float, ...], flip: bool
) -> None:
    """Log (B, H, W, 3) uint8 -> (B, H, W) uint8; the signature is unnamed, named ones become columns."""
    from importlib.metadata import version

    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    import dsrg

    picture, label_map = (-1, -1, -1, 3), (-1, -1, -1)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), picture)]),
        outputs=Schema([TensorSpec(np.dtype(np.uint8), label_map)]),
    )
    packages = (
        "torch",
        "torchvision",
        "timm",
        "numpy",
        "safetensors",
        "zarr",
        "scipy",
        "numba",
        "pydensecrf2",
    )
    mlflow.set_tracking_uri(client.tracking_uri)
    logging.getLogger("mlflow.pyfunc").setLevel(logging.ERROR)  # it warns that pickles are code; ours is
    with warnings.catch_warnings(), mlflow.start_run(run_id=run_id):
        warnings.simplefilter("ignore", UserWarning)  # an input example would run the network once more
        mlflow.pyfunc.log_model(
            name=name,
            python_model=_build_predictor(scales, flip),
            artifacts={"weights": str(weights)},
            code_paths=[str(Path(dsrg.__file__).parent)],
            signature=signature,
            pip_requirements=[f"{package}=={version(package).split('+')[0]}" for package in packages],
        )


def _build_predictor(scales: tuple[float, ...], flip: bool) -> Any:
    """Build the object MLflow stores; a local class, so that it is stored whole and needs no import."""
    from mlflow.pyfunc.model import PythonModel

    class Predictor(PythonModel):
        def load_context(self, context: Any) -> None:
            from dsrg.models import load_segmenter

            self.segmenter, _ = load_segmenter(Path(context.artifacts["weights"]))

        def predict(
            self, context: Any, model_input: np.ndarray, params: dict[str, Any] | None = None
        ) -> np.ndarray:
            import torch

            from dsrg.inference import predict_batch

            probs = predict_batch(
                self.segmenter,
                model_input,
                scales=scales,
                flip=flip,
                cells=model_input.shape[1:3],
                device=torch.device("cpu"),
            )
            return np.asarray(probs.argmax(axis=1), dtype=np.uint8)

    return Predictor()


def _shorten(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"
