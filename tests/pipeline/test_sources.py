"""The whole method on a devkit and on a COCO written in their true formats."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_coco import write_coco
from tiny_data import hash_tree
from tiny_project import CANVAS, build_params, list_label_stages, run_stage, without_tracking, write_params
from tiny_voc import write_devkit, write_mask

from dsrg.store import ImageStore, LabelStore
from tasks.workspace import Workspace

TRAIN, VAL = 8, 3


def write_source(kind: str, root: Path) -> Path:
    if kind == "voc":
        write_devkit(root, train=TRAIN, val=VAL, size=CANVAS * 3 // 4)
    else:
        write_coco(root, train=TRAIN, val=VAL, size=CANVAS * 3 // 4)
    return root


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_the_whole_method(tmp_path: Path, kind: str) -> None:
    data = write_source(kind, tmp_path / kind)
    params = build_params(source={"kind": kind, "path": str(data)}, reference={"enabled": False})
    workspace = Workspace(tmp_path / "work")
    workspace.root.mkdir()
    write_params(params, workspace.root)
    with without_tracking():
        for stage in ["ingest", *list_label_stages(params), "baseline", "evaluate@1", "evaluate@2"]:
            run_stage(params, workspace, stage)
        run_stage(params, workspace, "reference")
        run_stage(params, workspace, "report")
    images = ImageStore(workspace.path("data/images.zarr"))
    assert images.index.classes == (("cat", "dog") if kind == "voc" else ("person", "cat", "dog"))
    assert [len(images.index.rows(split)) for split in ("train", "val")] == [TRAIN, VAL]
    truth = LabelStore(workspace.path("data/truth.zarr"), "gt_label", stage="ingest")
    held = {int(v) for row in range(len(images)) for v in np.unique(truth.read(row, images.index.sizes[row]))}
    assert held == ({0, 1, 2, 255} if kind == "voc" else {0, 2, 3, 255})
    labels = LabelStore(workspace.path("data/rounds/2/pseudo_labels.zarr"), "pseudo_label", stage="refine")
    for row in images.index.rows("train"):
        present = {0, 255, *(np.flatnonzero(images.index.image_labels[row]) + 1).tolist()}
        assert set(np.unique(labels.read(row, images.index.sizes[row])).tolist()) <= present
    scores = json.loads(workspace.path("metrics/rounds/2/evaluate.json").read_text())
    assert scores["available"]
    assert 0 < scores["val"]["crf"]["miou"] < 1
    assert workspace.path("reports/summary.md").is_file()


@pytest.mark.parametrize("kind", ["voc", "coco"])
def test_masks_change_no_byte_of_what_is_learned_from(tmp_path: Path, kind: str) -> None:
    """Truth stays out of pictures, image labels and split; of the outlines of COCO, too."""
    trees = []
    for what in ("true", "noise", "none"):
        data = write_source(kind, tmp_path / what)
        if kind == "voc":
            replace_masks(data, what)
        else:
            replace_outlines(data, what)
        params = build_params(source={"kind": kind, "path": str(data)})
        run_stage(params, Workspace(tmp_path / f"work-{what}"), "ingest")
        trees.append(
            {n: hash_tree(tmp_path / f"work-{what}" / "data" / n) for n in ("images.zarr", "truth.zarr")}
        )
    assert trees[0]["images.zarr"] == trees[1]["images.zarr"] == trees[2]["images.zarr"]
    assert trees[0]["truth.zarr"] != trees[1]["truth.zarr"] != trees[2]["truth.zarr"]


def replace_masks(data: Path, what: str) -> None:
    folder = data / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    for mask in sorted(folder.iterdir()):
        if what == "noise":
            write_mask(mask, np.random.default_rng(0).integers(0, 21, (72, 96), np.uint8))
    if what == "none":
        shutil.rmtree(folder)


def replace_outlines(data: Path, what: str) -> None:
    for path in (data / "annotations").iterdir():
        content = json.loads(path.read_text())
        for annotation in content["annotations"] if what != "true" else []:
            annotation["segmentation"] = [[1, 1, 60, 5, 30, 50]] if what == "noise" else []
        path.write_text(json.dumps(content))
