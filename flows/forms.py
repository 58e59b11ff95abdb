"""The run form of the Prefect UI: flat, bounded, described, with ``params.yaml``'s values filled in.

A field of the form is a key of ``params.yaml``, ``train.epochs`` being called ``train_epochs``. Bounds,
choices and descriptions are those of :mod:`tasks.schema`, so that there is one place for them. The
server refuses what does not fit the schema made here, unknown names included, before a run is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dsrg.places import is_url
from flows.params_file import find_kind
from tasks.errors import UserError
from tasks.params import Params
from tasks.schema import BACKBONES, SYNTHETIC_PATH

SOURCE, ROUNDS, MORE = "source", "rounds", "more"
PIPELINE_KEYS = (
    "backbone.name",
    "classify.epochs",
    "train.epochs",
    "train.lr",
    "train.crop_size",
    "train.batch_size",
    "train.boundary_weight",
    "retrain.epochs",
    "cues.exponent",
    "cues.spread",
    "train.fg_threshold",
    "train.bg_threshold",
    "relabel.fg_threshold",
    "relabel.bg_threshold",
    "refine.min_confidence",
    "reference.enabled",
    "train.random_seed",
    "compute.device",
)
EVALUATE_KEYS = (
    "evaluate.flip",
    "evaluate.crf_adjustment",
    "evaluate.crf.iterations",
    "evaluate.crf.bilateral_weight",
    "evaluate.crf.bilateral_xy",
    "evaluate.crf.bilateral_rgb",
    "evaluate.crf.gaussian_weight",
    "evaluate.crf.gaussian_xy",
    "compute.device",
)
_STAGES = {"train": "Train", "retrain": "Retrain (rounds 2 and later)", "crf": "CRF"}


def name_field(key: str) -> str:
    """Name the form's field of a key: ``train.lr`` is ``train_lr``."""
    return key.replace(".", "_")


def build_fields(params: Params, keys: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Build the JSON schema's properties for keys of ``params.yaml``, current values as defaults."""
    fields = {}
    for key in keys:
        field = _find_property(key)
        value = params.model_dump(mode="json")
        for part in key.split("."):
            value = value[part]
        if key == "backbone.name":
            field["enum"] = list(dict.fromkeys([*BACKBONES, value]))
        fields[name_field(key)] = {**field, "title": _name_title(key), "default": value}
    return fields


def build_pipeline_form(params: Params) -> dict[str, dict[str, Any]]:
    """Build the properties of the form that runs the whole pipeline."""
    source = {
        "type": "string",
        "title": "Source",
        "minLength": 1,
        "description": "synthetic, or a folder on the machine that runs this, or a URL (s3://BUCKET/FOLDER): "
        "labels.csv beside images/, one folder per class, a VOCdevkit, or COCO's annotations/ and pictures",
        "default": "synthetic" if params.source.kind == "synthetic" else params.source.path,
    }
    rounds = {
        "type": "integer",
        "title": "Rounds",
        "minimum": 1,
        "maximum": 20,
        "description": "how often to train, relabel, refine",
        "default": len(params.rounds),
    }
    return {SOURCE: source, ROUNDS: rounds, **build_fields(params, PIPELINE_KEYS), MORE: more_field()}


def more_field() -> dict[str, Any]:
    """Build the field for any other key."""
    return {
        "type": "string",
        "title": "More",
        "description": "other params, KEY=VALUE, separated by spaces: cams.size=512 ingest.strict=false",
        "default": "",
    }


def pick_run_field() -> dict[str, dict[str, Any]]:
    """Build the field that names a finished run."""
    return {
        "run": {
            "type": "string",
            "title": "Run",
            "description": "a finished run, named as in `dvc exp list`; empty: the project as it is on disk",
            "default": "",
        }
    }


def predict_fields() -> dict[str, dict[str, Any]]:
    """Build the properties of the form that draws label maps over a folder."""
    return {
        "images": {
            "type": "string",
            "title": "Images",
            "minLength": 1,
            "description": "folder of pictures on the machine that runs this",
        },
        "out": {
            "type": "string",
            "title": "Out",
            "description": "folder to write to; empty: predictions/ in the project, one folder per run",
            "default": "",
        },
        **pick_run_field(),
        "crf": {
            "type": "boolean",
            "title": "CRF",
            "description": "sharpen the edges by the CRF of evaluate",
            "default": True,
        },
        "device": {
            "type": "string",
            "title": "Device",
            "enum": ["auto", "cpu", "cuda"],
            "description": "where the network runs",
            "default": "auto",
        },
    }


def join_fields() -> dict[str, dict[str, Any]]:
    """Build the properties of what one more machine of a training is told; no person fills them in."""
    return {
        "folder": {"type": "string", "title": "Folder", "description": "of the run"},
        "call": {"type": "string", "title": "Call", "description": "by which the stage waits"},
    }


def list_settings(values: Mapping[str, Any], project: Path) -> list[str]:
    """Translate a filled-in form into ``KEY=VALUE`` settings of ``params.yaml``.

    Parameters
    ----------
    values : mapping
        By the form's names; ``rounds`` is left out, it is no single key.
    project : Path
        Relative folders of pictures start here.

    Raises
    ------
    UserError
        A word of ``more`` is no ``KEY=VALUE``, or the folder of pictures does not exist.
    """
    keys = {name_field(key): key for key in (*PIPELINE_KEYS, *EVALUATE_KEYS)}
    settings = [f"{keys[name]}={json.dumps(value)}" for name, value in values.items() if name in keys]
    if SOURCE in values:
        settings += _list_source_settings(str(values[SOURCE]), project)
    for word in str(values.get(MORE, "")).split():
        if "=" not in word:
            raise UserError(f"`more` must hold KEY=VALUE, such as cams.size=512, got {word!r}")
        settings.append(word)
    return settings


def _list_source_settings(source: str, project: Path) -> list[str]:
    if source.strip() == "synthetic":
        return ["source.kind=synthetic", f"source.path={json.dumps(SYNTHETIC_PATH)}"]
    if is_url(source.strip()):
        url = source.strip()
        return [f"source.kind={find_kind(url)}", f"source.path={json.dumps(url)}"]
    folder, home = (project / Path(source.strip()).expanduser()).resolve(), project.resolve()
    if not folder.is_dir():
        raise UserError(
            f"`source` must be `synthetic`, a folder of pictures on this machine, or a URL, got {source!r}"
        )
    path = folder.relative_to(home).as_posix() if folder.is_relative_to(home) else str(folder)
    kind = find_kind(folder)
    return [f"source.kind={kind}", f"source.path={json.dumps(path)}"]


def _find_property(key: str) -> dict[str, Any]:
    """Find the JSON schema of one key, without the parts that only nested forms need."""
    schema = Params.model_json_schema()
    place: dict[str, Any] = schema
    for part in key.split("."):
        if "$ref" in place:
            place = schema["$defs"][place["$ref"].split("/")[-1]]
        place = place["properties"][part]
    return {name: value for name, value in place.items() if name not in ("default", "title")}


def _name_title(key: str) -> str:
    *sections, last = key.split(".")
    words = [_STAGES.get(section, section.capitalize()) for section in sections]
    return f"{' '.join(words)}: {last.replace('_', ' ')}"
