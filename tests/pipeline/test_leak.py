"""Truth reaches scores and nothing else: whatever it holds, weights and labels keep every byte."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import zarr
from tiny_project import (
    build_params,
    copy_workspace,
    hash_outputs,
    list_outputs,
    remake_labels,
    run_stage,
    without_tracking,
)

from dsrg.groups import finish_store
from dsrg.store import create_label_store


def replace_truth(path: Path, kind: str) -> None:
    """Replace truth by random class ids, by an empty store, or by no store at all."""
    shape = zarr.open_group(path, mode="r")["gt_label"].shape  # type: ignore[union-attr]
    shutil.rmtree(path)
    if kind == "gone":
        return
    available = kind == "noise"
    array = create_label_store(
        path, "gt_label", count=shape[0], canvas=shape[1], attributes={"available": available}
    )
    if available:
        array[:] = np.random.default_rng(0).integers(0, 4, shape, np.uint8)
    finish_store(path, digest=kind)


@pytest.mark.parametrize(
    "kind",
    [
        "noise",
        pytest.param("unavailable", marks=pytest.mark.slow),
        pytest.param("gone", marks=pytest.mark.slow),
    ],
)
def test_truth_changes_no_byte_of_weights_and_labels(tiny_run: Path, tmp_path: Path, kind: str) -> None:
    params = build_params()
    workspace = copy_workspace(tiny_run, tmp_path)
    replace_truth(workspace.path("data/truth.zarr"), kind)
    assert remake_labels(params, workspace) == hash_outputs(tiny_run, list_outputs(params))


def test_image_labels_do_change_them(tiny_run: Path, tmp_path: Path) -> None:
    """The comparison above is able to see a difference."""
    params = build_params()
    workspace = copy_workspace(tiny_run, tmp_path)
    labels = zarr.open_group(workspace.path("data/images.zarr"), mode="r+")["image_labels"]
    labels[:] = np.roll(np.asarray(labels[:]), 1, axis=1)  # type: ignore[union-attr,index]
    stages = ("classify", "cams", "cues", "train@1", "relabel@1", "refine@1")
    with without_tracking():
        for stage in stages:
            run_stage(params, workspace, stage)
    places = [
        place for place in list_outputs(params) if place.startswith("data/") and "rounds/2" not in place
    ]
    before, after = hash_outputs(tiny_run, places), hash_outputs(tmp_path, places)
    assert [place for place in places if before[place] == after[place]] == []
