"""A workspace with nothing but a segmenter, pictures and params: enough to draw, not to train."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from ruamel.yaml import YAML
from tiny_data import CRF, write_images, write_segmenter
from tiny_folder import draw_picture
from tiny_project import PROJECT, build_params, write_params

from dsrg.models import SegmenterSpec

__all__ = ["PROJECT", "SPEC", "build_workspace", "run_dsrg", "write_mlflow_model"]

SPEC = SegmenterSpec(
    backbone="efficientnet_lite0",
    classes=("cat", "dog"),
    output_stride=16,
    aspp_channels=8,
    aspp_rates=(1,),
    aspp_separable=True,
    dropout=0.0,
    skip_channels=4,
    input_size=64,
)


def build_workspace(root: Path) -> Path:
    """Write the workspace, and the ONNX file of its segmenter as ``model.onnx``."""
    from tasks.export_model import export_model

    write_params(build_params(evaluate={"crf": CRF}), root)
    write_segmenter(root / "data/rounds/2/segmenter.safetensors", SPEC)
    pictures = [draw_picture(number, 40 + number, 64) for number in range(4)]
    write_images(root / "data/images.zarr", pictures, [[1, 0]] * 4, canvas=64)
    assert export_model(root, root / "model.onnx", kind=None, round_key=None)["kept"]
    return root


def write_mlflow_model(drawing_workspace: Path, folder: Path) -> Path:
    """Write what MLflow keeps of a model: where its files are, and they."""
    (folder / "artifacts").mkdir(parents=True)
    shutil.copy(drawing_workspace / "data/rounds/2/segmenter.safetensors", folder / "artifacts")
    settings = {"scales": [1.0], "flip": False, "crf": CRF, "max_side": 64, "min_peak": 0.01}
    (folder / "artifacts/settings.json").write_text(json.dumps(settings))
    places = {name: {"path": f"artifacts/{name}"} for name in ("settings.json", "segmenter.safetensors")}
    artifacts = {"weights": places["segmenter.safetensors"], "settings": places["settings.json"]}
    with (folder / "MLmodel").open("w") as file:
        YAML().dump({"flavors": {"python_function": {"artifacts": artifacts}}}, file)
    return folder


def run_dsrg(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {**os.environ, "PYTHONPATH": str(PROJECT), **environment}
    command = [sys.executable, "-m", "flows.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
