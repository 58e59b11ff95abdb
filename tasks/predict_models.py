"""The model that ``predict`` draws with: a checkpoint, an ONNX file, or a model that MLflow keeps."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.cores import count_workers
from tasks.errors import UserError
from tasks.inference import choose_engine
from tasks.params import check_round, read_params
from tasks.schema import NO_CLUSTER, Compute

if TYPE_CHECKING:
    from dsrg.drawing import Network

KINDS = (
    "a checkpoint (segmenter.safetensors), an ONNX file of `dsrg export model` (.onnx), "
    "or an MLflow model (models:/NAME@champion, runs:/RUN/segmenter, or a folder with MLmodel)"
)
_MLFLOW = ("models:/", "runs:/", "mlflow-artifacts:/")
_ONNX = ".onnx"


@dataclass(frozen=True)
class Model:
    """A file that a network can be opened from, and what it says of itself.

    Attributes
    ----------
    path : Path
        A ``.safetensors`` or ``.onnx`` file.
    source : str
        As the user named it.
    digest : str
        sha256 of its file.
    classes : tuple of C str
        By class id, background first.
    settings : dict
        How it is meant to draw (``scales``, ``flip``, ``crf``, ``max_side``), as far as it says.
    log_odds : float
        Of the segmenter's spec, for a CRF that the settings do not describe.
    fetched : bool
        The file was fetched for this process, and ends with it.
    """

    path: Path
    source: str
    digest: str
    classes: tuple[str, ...]
    settings: dict[str, Any]
    log_odds: float = 0.0
    fetched: bool = False


def locate_segmenter(root: Path, *, round_key: str | None = None) -> Path:
    """Locate a round's segmenter in a workspace; the last round's, if none is named.

    Raises
    ------
    UserError
        No workspace, no such round, or it was not trained yet.
    """
    params = read_params(root / "params.yaml")
    key = params.round_keys[-1] if round_key is None else round_key
    check_round(params, key)
    weights = root / "data" / "rounds" / key / "segmenter.safetensors"
    if not weights.is_file():
        raise UserError(f"`{weights}` not found: run `dsrg run` first, or name a finished run")
    return weights


def find_model(named: str | None, *, root: Path, place: Path) -> Model:
    """Find the model that a user named.

    Parameters
    ----------
    named : str or None
        See `KINDS`; None is the last round's segmenter in the workspace.
    root : Path
        The workspace; it needs to be none where a file is named.
    place : Path
        An empty folder, for what has to be fetched.

    Raises
    ------
    UserError
        Of no known kind, not there, or damaged.
    """
    if named is None:
        if not (root / "params.yaml").exists():
            raise UserError(f"no model and no params.yaml here: name one with --model, {KINDS}")
        weights = locate_segmenter(root)
        return _read_checkpoint(weights, source=str(weights))
    path = Path(named).expanduser()
    if named.startswith(_MLFLOW):
        return _fetch_registered(named, root=root, place=place)
    if path.suffix == ".safetensors":
        return _read_checkpoint(path, source=named)
    if path.suffix == _ONNX:
        return _read_onnx(path, source=named)
    if path.is_dir() and (path / "MLmodel").is_file():
        return _read_mlflow(path, source=named)
    raise UserError(f"`--model` must be {KINDS}, got {named!r}")


def open_network(model: Model, compute: Compute, *, pictures: int) -> Network:
    """Open the network in a model's file.

    Parameters
    ----------
    model : Model
    compute : Compute
    pictures : int
        It is to draw so many, all of them together.

    Raises
    ------
    UserError
        Not there, damaged, or not to be run on that device.
    """
    if model.path.suffix == _ONNX:
        from dsrg.networks import NetworkError, OnnxNetwork

        # on a cluster, others of this machine compute as well
        threads = 0 if compute.cluster == NO_CLUSTER else count_workers(compute.workers)
        try:
            return OnnxNetwork(model.path, cuda=compute.device == "cuda", threads=threads)
        except NetworkError as error:
            raise UserError(str(error)) from None
    from dsrg.models import ModelFileError, load_segmenter
    from dsrg.networks import TorchNetwork
    from dsrg.training import choose_device

    try:
        chosen = choose_device(compute.device)
        segmenter, spec = load_segmenter(model.path)
    except (ModelFileError, ValueError) as error:
        raise UserError(str(error)) from None
    return TorchNetwork(segmenter, spec.classes, chosen, **choose_engine(compute, pictures=pictures))


def _read_checkpoint(path: Path, *, source: str, settings: dict[str, Any] | None = None) -> Model:
    if not path.is_file():
        raise UserError(f"`{path}` not found: `--model` must be {KINDS}")
    from dsrg.models import ModelFileError, load_segmenter_spec

    try:
        spec = load_segmenter_spec(path)
    except ModelFileError as error:
        raise UserError(str(error)) from None
    classes = ("background", *spec.classes)
    return Model(path, source, hash_file(path), classes, settings or {}, spec.log_odds)


def _read_onnx(path: Path, *, source: str) -> Model:
    from dsrg.networks import NetworkError, read_onnx_about

    try:
        about = read_onnx_about(path)
    except NetworkError as error:
        raise UserError(str(error)) from None
    return Model(path, source, hash_file(path), tuple(about["classes"]), dict(about["settings"]))


def _fetch_registered(uri: str, *, root: Path, place: Path) -> Model:
    from tasks.tracking_model import download_model
    from tasks.workspace import Workspace

    folder = download_model(uri, Workspace(root), place)
    return replace(_read_mlflow(folder, source=uri), fetched=True)


def _read_mlflow(folder: Path, *, source: str) -> Model:
    """Read a model as MLflow stores it: only the weights in it are read, no code of it is run."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        about = YAML(typ="safe", pure=True).load(folder / "MLmodel")
        places = about["flavors"]["python_function"]["artifacts"]
        weights = folder / places["weights"]["path"]
        settings = folder / places["settings"]["path"] if "settings" in places else None
    except (YAMLError, KeyError, TypeError, OSError):
        raise UserError(f"`{source}` holds no segmenter of this program: `--model` must be {KINDS}") from None
    found = json.loads(settings.read_text(encoding="utf-8")) if settings and settings.is_file() else {}
    return _read_checkpoint(weights, source=source, settings=found)


def hash_file(path: Path) -> str:
    """Hash a file's bytes by sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
