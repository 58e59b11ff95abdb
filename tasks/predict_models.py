"""The model that ``predict`` draws with: a checkpoint, an ONNX file, or a model that MLflow keeps."""

from __future__ import annotations

import hashlib
import json
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.errors import UserError
from tasks.inference import choose_engine
from tasks.params import check_round, read_params
from tasks.schema import Compute

if TYPE_CHECKING:
    from dsrg.drawing import Network

KINDS = (
    "a checkpoint (segmenter.safetensors), an ONNX file of `dsrg export model` (.onnx), "
    "or an MLflow model (models:/NAME@champion, runs:/RUN/segmenter, or a folder with MLmodel)"
)
_MLFLOW = ("models:/", "runs:/", "mlflow-artifacts:/")


@dataclass(frozen=True)
class Model:
    """A network that is ready to draw.

    Attributes
    ----------
    network : Network
    source : str
        As the user named it.
    digest : str
        sha256 of its file.
    settings : dict
        How it is meant to draw (``scales``, ``flip``, ``crf``, ``max_side``), as far as it says.
    log_odds : float
        Of the segmenter's spec, for a CRF that the settings do not describe.
    """

    network: Network
    source: str
    digest: str
    settings: dict[str, Any]
    log_odds: float = 0.0


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


def open_model(named: str | None, *, root: Path, compute: Compute, pictures: int) -> Model:
    """Open the model that a user named.

    Parameters
    ----------
    named : str or None
        See `KINDS`; None is the last round's segmenter in the workspace.
    root : Path
        The workspace; it needs to be none where a file is named.
    compute : Compute
    pictures : int
        It is to draw so many.

    Raises
    ------
    UserError
        Of no known kind, not there, damaged, or not to be run on that device.
    """
    work: Any = {"compute": compute, "pictures": pictures}
    if named is None:
        if not (root / "params.yaml").exists():
            raise UserError(f"no model and no params.yaml here: name one with --model, {KINDS}")
        weights = locate_segmenter(root)
        return _open_checkpoint(weights, source=str(weights), settings={}, **work)
    path = Path(named).expanduser()
    if named.startswith(_MLFLOW):
        return _open_registered(named, root=root, **work)
    if path.suffix == ".safetensors":
        return _open_checkpoint(path, source=named, settings={}, **work)
    if path.suffix == ".onnx":
        return _open_onnx(path, source=named, cuda=compute.device == "cuda")
    if path.is_dir() and (path / "MLmodel").is_file():
        return _open_mlflow(path, source=named, **work)
    raise UserError(f"`--model` must be {KINDS}, got {named!r}")


def _open_checkpoint(
    path: Path, *, source: str, compute: Compute, pictures: int, settings: dict[str, Any]
) -> Model:
    if not path.is_file():
        raise UserError(f"`{path}` not found: `--model` must be {KINDS}")
    from dsrg.models import ModelFileError, load_segmenter
    from dsrg.networks import TorchNetwork
    from dsrg.training import choose_device

    try:
        chosen = choose_device(compute.device)
        segmenter, spec = load_segmenter(path)
    except (ModelFileError, ValueError) as error:
        raise UserError(str(error)) from None
    engine = choose_engine(compute, pictures=pictures)
    network = TorchNetwork(segmenter, spec.classes, chosen, **engine)
    return Model(network, source, hash_file(path), settings, spec.log_odds)


def _open_onnx(path: Path, *, source: str, cuda: bool) -> Model:
    from dsrg.networks import NetworkError, OnnxNetwork

    try:
        network = OnnxNetwork(path, cuda=cuda)
    except NetworkError as error:
        raise UserError(str(error)) from None
    return Model(network, source, hash_file(path), dict(network.about["settings"]))


def _open_registered(uri: str, *, root: Path, compute: Compute, pictures: int) -> Model:
    from tasks.tracking_model import download_model
    from tasks.workspace import Workspace

    with tempfile.TemporaryDirectory(prefix="dsrg-model-") as place:
        folder = download_model(uri, Workspace(root), Path(place))
        return _open_mlflow(folder, source=uri, compute=compute, pictures=pictures)


def _open_mlflow(folder: Path, *, source: str, compute: Compute, pictures: int) -> Model:
    """Open a model as MLflow stores it: only the weights in it are read, no code of it is run."""
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
    return _open_checkpoint(weights, source=source, compute=compute, pictures=pictures, settings=found)


def hash_file(path: Path) -> str:
    """Hash a file's bytes by sha256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
