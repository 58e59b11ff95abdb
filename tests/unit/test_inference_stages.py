"""Which engine a stage's network runs on, and that stages give the same by both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from tiny_project import build_params, copy_workspace, run_stage

from tasks import inference
from tasks.inference import make_ready
from tasks.schema import Compute


class Double(torch.nn.Module):
    def forward(self, view: torch.Tensor) -> tuple[torch.Tensor]:
        return (2 * view,)


def ready(pictures: int, **changes: Any) -> inference.Ready:
    settings = {
        "device": "cpu",
        "precision": "32-true",
        "inference_precision": "32-true",
        "engine": "openvino",
        "workers": 3,
        "cluster": "none",
        "stores": "none",
        "devices": 1,
        "nodes": 1,
        **changes,
    }
    return make_ready(Double(), Compute.model_validate(settings), pictures=pictures)


@pytest.mark.parametrize(
    ("pictures", "engine", "streams", "by_torch"),
    [(31, "openvino", 1, True), (32, "openvino", 3, False), (32, "torch", 1, True)],
)
def test_openvino_runs_what_is_more_than_a_few(pictures: int, engine: str, streams: int, by_torch: bool):
    found = ready(pictures, engine=engine)
    assert found.streams == streams
    assert isinstance(found.forward, torch.nn.Module) == by_torch
    view = torch.rand(1, 3, 40, 50)
    torch.testing.assert_close(found.forward(view)[0], 2 * view)


@pytest.mark.parametrize(
    ("stage", "store", "array"),
    [("cams", "data/cams.zarr", "cam"), ("relabel@1", "data/rounds/1/probs.zarr", "probs")],
)
def test_a_stage_gives_the_same_by_both_engines(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, store: str, array: str
):
    found = []
    for few in (0, 1000):
        monkeypatch.setattr(inference, "_FEW", few)
        workspace = copy_workspace(tiny_run, tmp_path / str(few))
        run_stage(build_params(), workspace, stage)
        found.append(np.asarray(zarr.open(workspace.path(store), mode="r")[array]).astype(np.float32))
    assert found[0].max() > 0.5
    np.testing.assert_allclose(found[0], found[1], atol=2e-3)
