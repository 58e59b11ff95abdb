"""The whole method on a handful of drawn pictures, small enough for a test."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from ruamel.yaml import YAML

from tasks import tracking
from tasks.params import Params, check_params
from tasks.workspace import Workspace

PROJECT = Path(__file__).resolve().parent.parent
NUM_TRAIN, NUM_VAL, CANVAS = 10, 3, 96
CHANGES: dict[str, Any] = {
    "source": {"num_train": NUM_TRAIN, "num_val": NUM_VAL, "size": CANVAS},
    "ingest": {"canvas": CANVAS},
    "classify": {"crop_size": 64, "epochs": 1, "min_steps": 1, "batch_size": 5, "output_stride": 32},
    "cams": {"size": 64, "scales": (1.0, 1.5), "output_stride": 32},
    "cues": {"crf": {"iterations": 2}},
    "train": {
        "crop_size": 64,
        "epochs": 1,
        "min_steps": 1,
        "batch_size": 5,
        "aspp_channels": 8,
        "aspp_rates": (1, 2),
        "skip_channels": 4,
        "checkpoint_every": 1,
        "crf": {"iterations": 2},
    },
    "retrain": {"epochs": 1, "min_steps": 1, "boundary_weight": 0.5},
    "relabel": {"scales": (1.0,)},
    "refine": {"crf": {"iterations": 2}},
    "evaluate": {"scales": (1.0,), "crf": {"iterations": 2}},
    "reference": {"enabled": True},
    "report": {"panels": 1},
    "compute": {"device": "cpu", "workers": 1},
}
BEFORE_ROUNDS = ("classify", "cams", "cues")
IN_ROUNDS = ("train", "relabel", "refine")


def build_params(**changes: Any) -> Params:
    """The project's own params, with what makes them tiny."""
    path = PROJECT / "params.yaml"
    values = YAML(typ="safe", pure=True).load(path)
    for layer in (CHANGES, changes):
        values = _merge(values, layer)
    values["rounds"] = {key: values["rounds"][key] for key in ("1", "2")}
    values["final_round"] = "2"
    return check_params(values, path=path)


def _merge(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(values)
    for key, value in changes.items():
        merged[key] = _merge(values[key], value) if isinstance(value, dict) else value
    return merged


@contextlib.contextmanager
def without_tracking() -> Iterator[None]:
    """Keep MLflow out: creating its database takes longer than the whole method here."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("stage_run", "study_run"):
            run = tracking.Run(None, None)
            patch.setattr(tracking, name, lambda *_, run=run, **__: contextlib.nullcontext(run))
        yield


def run_stage(params: Params, workspace: Workspace, stage: str) -> None:
    """Run a stage in this process: ``cams``, or ``train@1``."""
    name, _, round_key = stage.partition("@")
    from tiny_data import torch_threads  # benches read this module without tests on their path

    with torch_threads(1):
        importlib.import_module(f"tasks.{name}").run(params, workspace, round_key=round_key or None)


def list_label_stages(params: Params) -> list[str]:
    """The stages that lead to pseudo-labels; none of them may see truth."""
    in_rounds = [f"{stage}@{key}" for key in params.round_keys for stage in IN_ROUNDS]
    return [*BEFORE_ROUNDS, *in_rounds]


def run_everything(root: Path) -> tuple[Params, Workspace]:
    """Run every stage in a new workspace at `root`."""
    params, workspace = build_params(), Workspace(root)
    write_params(params, root)
    with without_tracking():
        ingest(params, workspace)
        for stage in [*list_label_stages(params), "baseline", "evaluate@1", "evaluate@2", "reference"]:
            run_stage(params, workspace, stage)
        run_stage(params, workspace, "report")
    return params, workspace


def remake_labels(params: Params, workspace: Workspace) -> dict[str, str]:
    """Remove all that leads to pseudo-labels but pictures, make it anew; return what it hashes to."""
    for made in ("classifier.safetensors", "cams.zarr", "cues.zarr", "rounds"):
        place = workspace.path("data") / made
        place.unlink() if place.is_file() else shutil.rmtree(place)
    with without_tracking():
        for stage in list_label_stages(params):
            run_stage(params, workspace, stage)
    return hash_outputs(workspace.root, list_outputs(params))


def ingest(params: Params, workspace: Workspace) -> None:
    """Ingest, then take the classes away from two pictures: real data holds such."""
    run_stage(params, workspace, "ingest")
    group = zarr.open_group(workspace.path("data/images.zarr"), mode="r+")
    labels = np.asarray(group["image_labels"][:])
    splits = list(group["split"][:])
    for row in (splits.index("train"), splits.index("val")):
        labels[row] = False
    group["image_labels"][:] = labels


def run_in_process(root: Path, stage: str, *, before: str = "") -> subprocess.Popen[str]:
    """Start ``python -m tasks STAGE`` in a process of its own, after the statements `before`."""
    name, _, round_key = stage.partition("@")
    arguments = [name, "--root", str(root), *(["--round", round_key] if round_key else [])]
    program = f"import sys\n{before}\nfrom tasks.__main__ import main\nsys.exit(main({arguments!r}))"
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "DSRG_PROGRESS": "plain",
        "PYTHONPATH": str(PROJECT),
        "PYTHONUNBUFFERED": "1",
    }
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env=environment,
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def copy_workspace(source: Path, root: Path) -> Workspace:
    """Copy params and data, so that a test may change them."""
    shutil.copytree(source / "data", root / "data")
    shutil.copy(source / "params.yaml", root)
    return Workspace(root)


def write_params(params: Params, root: Path) -> None:
    """Write ``params.yaml`` for runs in other processes."""
    with (root / "params.yaml").open("w", encoding="utf-8") as file:
        YAML().dump(params.model_dump(mode="json"), file)


def read_losses(root: Path, stage: str) -> list[float]:
    """Read the losses of all steps that a stage did."""
    name, _, key = stage.partition("@")
    numbers = json.loads((root / "metrics" / (f"rounds/{key}" if key else "") / f"{name}.json").read_text())
    return [point["loss"] for point in numbers["loss"]]


def hash_outputs(root: Path, places: Iterable[str]) -> dict[str, str]:
    """Hash outputs, stores by the names and bytes of all their files."""
    return {place: _hash_place(root / place) for place in places}


def _hash_place(place: Path) -> str:
    files: Sequence[Path] = [place] if place.is_file() else sorted(f for f in place.rglob("*") if f.is_file())
    assert files, f"{place} holds nothing"
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(place)}\0{file.stat().st_size}\0".encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()


def list_outputs(params: Params) -> list[str]:
    """Everything that must not depend on truth."""
    rounds = [
        f"data/rounds/{key}/{name}"
        for key in params.round_keys
        for name in ("segmenter.safetensors", "seeds.zarr", "probs.zarr", "pseudo_labels.zarr")
    ]
    metrics = ["metrics/classify.json", "metrics/cues.json"]
    metrics += [f"metrics/rounds/{key}/train.json" for key in params.round_keys]
    return ["data/classifier.safetensors", "data/cams.zarr", "data/cues.zarr", *rounds, *metrics]
