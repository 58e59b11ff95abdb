"""What the whole method drew, exported: the labels themselves, without a look at the truth."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from tiny_data import hash_tree
from tiny_project import build_params, copy_workspace

from dsrg.image import read_mask
from dsrg.store import ImageStore, LabelStore
from tasks.export_labels import Settings, export_labels


@pytest.mark.parametrize("what", ["pseudo-labels", "seeds", "cues"])
def test_labels_of_a_run_are_exported(tiny_run: Path, tmp_path: Path, what: str):
    workspace = copy_workspace(tiny_run, tmp_path / "work")
    shutil.rmtree(workspace.path("data/truth.zarr"))
    before = hash_tree(workspace.root)
    summary = export_labels(build_params(), workspace, tmp_path / "out", Settings("voc", what=what))  # type: ignore[arg-type]
    assert hash_tree(workspace.root) == before
    images = ImageStore(workspace.path("data/images.zarr"))
    place, array = {
        "pseudo-labels": ("data/rounds/2/pseudo_labels.zarr", "pseudo_label"),
        "seeds": ("data/rounds/2/seeds.zarr", "seed"),
        "cues": ("data/cues.zarr", "cue"),
    }[what]
    labels = LabelStore(workspace.path(place), array, stage="refine")
    folder = tmp_path / "out" / "VOCdevkit" / "VOC2012" / "SegmentationClass"
    rows = images.index.rows("train").tolist()
    assert summary["pictures"] == len(rows) == len(list(folder.iterdir()))
    for row in rows:
        exported = read_mask(folder / f"{images.index.ids[row]}.png")
        assert np.array_equal(exported, labels.read(row, images.index.sizes[row]))


def test_an_earlier_run_is_exported_from_where_it_was_restored(tiny_run: Path, tmp_path: Path):
    drawn = tiny_run / "data" / "rounds" / "1" / "pseudo_labels.zarr"
    restored = shutil.copytree(drawn, tmp_path / "restored" / "pseudo_labels.zarr")
    workspace = copy_workspace(tiny_run, tmp_path / "work")
    params = build_params()
    of_store = Settings("png", labels=restored, round_key="1", images="none")
    export_labels(params, workspace, tmp_path / "one", of_store)
    export_labels(params, workspace, tmp_path / "other", Settings("png", round_key="1", images="none"))
    assert hash_tree(tmp_path / "one" / "masks") == hash_tree(tmp_path / "other" / "masks")
