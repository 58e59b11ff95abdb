"""The final segmenter in MLflow's registry: one version per distinct weights, the best is the champion."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tasks.errors import UserError
from tasks.tracking_places import locate_home, locate_tracking, reach
from tasks.workspace import Workspace

CHAMPION = "champion"
SCORE = "val/miou_crf"  # of what the model answers unless asked otherwise
_DIGEST = "dsrg.model_sha256"
# what `tracking_pyfunc` imports, and what of dsrg it uses
_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "safetensors",
    "zarr",
    "scipy",
    "numba",
    "pydensecrf2",
)
_MODEL_CODE = "tracking_pyfunc.py"


def name_model(data: str) -> str:
    """Name the registered model of a data set: its name, without what MLflow does not take.

    Examples
    --------
    >>> name_model("birds: 2024")
    'birds- 2024'
    """
    return re.sub(r"[^\w .-]", "-", data)


def register_model(
    client: Any,
    run_id: str,
    weights: str,
    *,
    data: str,
    settings: Mapping[str, Any],
    classes: Sequence[str],
    scores: Mapping[str, float],
    step: int,
) -> str:
    """Register a segmenter, unless it is; make it the champion if its val mIoU is higher.

    Two models are the same if their weights and what is done to a picture besides are the same.
    Without truth there is no mIoU: the first model becomes champion, and stays it.

    Parameters
    ----------
    client : MlflowClient
    run_id : str
        Run that the model belongs to.
    weights : str
        A ``segmenter.safetensors``.
    data : str
        Name of the data set, which names the registered model.
    settings : mapping
        ``scales``, ``flip``, ``crf``, ``max_side`` and ``min_peak`` of prediction.
    classes : sequence of str
        Names by class id, background first.
    scores : mapping
        ``val/miou`` and ``val/miou_crf``; empty without truth.
    step : int
        Round that the weights are of.

    Returns
    -------
    str
        What happened, for people; empty if nothing did.
    """
    name = name_model(data)
    digest = hashlib.sha256(Path(weights).read_bytes())
    digest.update(json.dumps(settings, sort_keys=True).encode())
    known = [
        version
        for version in client.search_model_versions(f"name='{name}'")
        if version.tags.get(_DIGEST) == digest.hexdigest()
    ]
    tags = {key: repr(value) for key, value in scores.items()}
    if known:
        version = known[0]
        for key, value in tags.items():
            if version.tags.get(key) != value:
                client.set_model_version_tag(name, version.version, key, value)
    else:
        version = _create_version(
            client,
            run_id,
            weights,
            name=name,
            settings=settings,
            classes=classes,
            step=step,
            tags={_DIGEST: digest.hexdigest(), "dsrg.round": str(step), **tags},
        )
    moved = _move_champion(client, name, version.version, scores.get(SCORE))
    if known and not moved:
        return ""
    return f"model {name} version {version.version} registered in MLflow{moved}"


def _move_champion(client: Any, name: str, version: str, score: float | None) -> str:
    held = client.get_registered_model(name).aliases.get(CHAMPION)
    if held is not None:
        if str(held) == str(version) or score is None:
            return ""
        before = client.get_model_version(name, held).tags.get(SCORE)
        if before is not None and score <= float(before):
            return ""
    client.set_registered_model_alias(name, CHAMPION, version)
    return ", the champion now" if score is not None else ", the champion for want of a score"


def _create_version(
    client: Any,
    run_id: str,
    weights: str,
    *,
    name: str,
    settings: Mapping[str, Any],
    classes: Sequence[str],
    step: int,
    tags: Mapping[str, str],
) -> Any:
    from importlib.metadata import version

    import mlflow

    import dsrg
    from dsrg.labels import build_palette

    mlflow.set_tracking_uri(client.tracking_uri)
    # MLflow tells of every step on stderr, past its logging
    with (
        contextlib.redirect_stderr(io.StringIO()),
        tempfile.TemporaryDirectory() as place,
        mlflow.start_run(run_id=run_id),
    ):
        written = Path(place) / "settings.json"  # as a `model_config` they would become params of the run
        written.write_text(json.dumps(settings), encoding="utf-8")
        logged = mlflow.pyfunc.log_model(
            name="segmenter",
            python_model=str(Path(__file__).with_name(_MODEL_CODE)),
            artifacts={"weights": str(weights), "settings": str(written)},
            code_paths=[str(Path(dsrg.__file__).parent)],
            signature=_build_signature(),
            input_example=_build_example(),
            metadata={"classes": list(classes), "palette": build_palette()[: len(classes)].tolist()},
            pip_requirements=[f"{package}=={version(package).split('+')[0]}" for package in _PACKAGES],
            step=step,
        )
        created = mlflow.register_model(logged.model_uri, name, tags=dict(tags))
    return client.get_model_version(name, created.version)


def _build_signature() -> Any:
    """Describe in- and output; MLflow lets an array of objects hold pictures of any size, or texts."""
    import numpy as np
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec
    from mlflow.types.schema import AnyType, Array, Object, Property

    row = Object(
        [
            Property("id", DataType.long),
            Property("name", DataType.string),
            Property("color", DataType.string),
            Property("share", DataType.double),
        ]
    )
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(object), (-1,))]),
        outputs=Schema(
            [
                ColSpec(AnyType(), "mask"),
                ColSpec(DataType.long, "height"),
                ColSpec(DataType.long, "width"),
                ColSpec(Array(row), "classes"),
            ]
        ),
        params=ParamSchema(
            [ParamSpec("crf", DataType.boolean, True), ParamSpec("mask", DataType.string, "auto")]
        ),
    )


def _build_example() -> Any:
    """Draw a small picture, as it is sent to a server: a PNG in base64."""
    import base64

    import numpy as np
    from PIL import Image

    rows, columns = np.mgrid[0:48, 0:64]
    picture = np.stack([rows * 5, columns * 4, np.full_like(rows, 90)], axis=-1).astype(np.uint8)
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return np.array([base64.b64encode(stream.getvalue()).decode()], dtype=object)


def download_model(uri: str, workspace: Workspace, place: Path) -> Path:
    """Download a model that MLflow keeps.

    Parameters
    ----------
    uri : str
        ``models:/NAME@champion``, ``models:/NAME/VERSION``, ``runs:/RUN/segmenter``.
    workspace : Workspace
        Its MLflow is asked, or the one that ``MLFLOW_TRACKING_URI`` names.
    place : Path
        Folder to put it in.

    Returns
    -------
    Path
        Folder with ``MLmodel``.

    Raises
    ------
    UserError
        MLflow does not answer, or has no such model.
    """
    tracking = locate_tracking(workspace)
    database = Path(tracking.removeprefix("sqlite:///"))
    if tracking.startswith("sqlite:") and not database.is_file():
        raise UserError(f"`{uri}`: no MLflow at `{database}`: name its server by MLFLOW_TRACKING_URI")
    import mlflow

    try:
        client = reach(tracking, locate_home(workspace))
        with contextlib.redirect_stderr(io.StringIO()):
            mlflow.set_tracking_uri(client.tracking_uri)
            found = mlflow.artifacts.download_artifacts(artifact_uri=uri, dst_path=str(place))
    except (ConnectionError, OSError, mlflow.exceptions.MlflowException) as error:
        raise UserError(f"`{uri}` cannot be had from MLflow: {str(error).splitlines()[0]}") from None
    return Path(found)
