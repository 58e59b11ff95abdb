"""The whole method on a handful of drawn pictures, two of which hold no class at all."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from tiny_project import (
    NUM_TRAIN,
    NUM_VAL,
    build_params,
    copy_workspace,
    hash_outputs,
    list_outputs,
    run_stage,
    without_tracking,
    write_params,
)

from dsrg.labels import list_present
from dsrg.losses import measure_log_odds
from dsrg.models import load_segmenter_spec
from dsrg.store import ImageStore, LabelStore, ScoreStore, count_cells
from tasks.__main__ import main
from tasks.errors import UserError

LABELS = {
    "data/cues.zarr": "cue",
    "data/rounds/1/seeds.zarr": "seed",
    "data/rounds/1/pseudo_labels.zarr": "pseudo_label",
    "data/rounds/2/seeds.zarr": "seed",
    "data/rounds/2/pseudo_labels.zarr": "pseudo_label",
}


@pytest.fixture
def images(tiny_run: Path) -> ImageStore:
    return ImageStore(tiny_run / "data/images.zarr")


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def test_every_stage_leaves_its_outputs_and_nothing_half_done(tiny_run: Path) -> None:
    params = build_params()
    metrics = ["ingest", "classify", "cues", "baseline", "reference", "summary"]
    metrics += [f"rounds/{key}/{name}" for key in ("1", "2") for name in ("train", "evaluate")]
    expected = [
        "data/images.zarr",
        "data/saliency.zarr",
        "data/truth.zarr",
        *list_outputs(params),
        "data/rounds/1/panels/train.png",
        "data/rounds/2/panels/val.png",
        "data/reference/segmenter.safetensors",
        *(f"metrics/{name}.json" for name in metrics),
        "reports/summary.md",
    ]
    assert [place for place in expected if not (tiny_run / place).exists()] == []
    assert [path.name for path in tiny_run.glob(".work/*/*") if path.is_dir()] == []
    assert not list(tiny_run.rglob("*.partial"))


def test_the_fixture_holds_pictures_without_any_class(images: ImageStore) -> None:
    index = images.index
    for split, count in (("train", NUM_TRAIN), ("val", NUM_VAL)):
        rows = index.rows(split)
        assert len(rows) == count
        assert 0 < int((~index.image_labels[rows].any(axis=1)).sum()) < count


@pytest.mark.parametrize("place", LABELS)
def test_label_maps_hold_present_classes_or_nothing(tiny_run: Path, images: ImageStore, place: str) -> None:
    store = LabelStore(tiny_run / place, LABELS[place], stage="")
    for row in images.index.rows("train"):
        label_map = store.read(row, images.index.sizes[row])
        present = list_present(images.index.image_labels[row])
        assert set(np.unique(label_map)) <= {*present.tolist(), 255}
        whole = store.read(row, (images.canvas, images.canvas)).copy()
        whole[: label_map.shape[0], : label_map.shape[1]] = 255
        assert (whole == 255).all()  # the padding of the canvas


@pytest.mark.parametrize("place", LABELS)
def test_val_pictures_stay_unlabelled(tiny_run: Path, images: ImageStore, place: str) -> None:
    store = LabelStore(tiny_run / place, LABELS[place], stage="")
    for row in images.index.rows("val"):
        assert (store.read(row, (images.canvas, images.canvas)) == 255).all()


def test_pictures_without_classes_are_background(tiny_run: Path, images: ImageStore) -> None:
    rows = images.index.rows("train")
    empty = rows[~images.index.image_labels[rows].any(axis=1)]
    for place in LABELS:
        store = LabelStore(tiny_run / place, LABELS[place], stage="")
        for row in empty:
            assert (store.read(row, images.index.sizes[row]) == 0).all()
    cams = ScoreStore(tiny_run / "data/cams.zarr", "cam", stage="cams")
    for row in empty:
        assert (cams.read(row, 9, (images.canvas, images.canvas)) == 0).all()


def test_background_cues_from_saliency(tiny_run: Path, tmp_path: Path, images: ImageStore) -> None:
    workspace = copy_workspace(tiny_run, tmp_path)
    params = build_params(cues={"background": "saliency", "saliency_threshold": 0.5})
    with pytest.raises(UserError, match=r"`data/saliency.zarr` holds no maps: put .* cues.background=cam"):
        run_stage(params, workspace, "cues")
    group = zarr.open_group(tmp_path / "data/saliency.zarr", mode="r+")
    group.attrs["available"] = True
    left = np.full((len(images), images.canvas, images.canvas), 255, np.uint8)
    left[:, :, : images.canvas // 4] = 0
    group["saliency"][:] = left
    run_stage(params, workspace, "cues")
    before = LabelStore(tiny_run / "data/cues.zarr", "cue", stage="cues")
    after = LabelStore(tmp_path / "data/cues.zarr", "cue", stage="cues")
    for row in images.index.rows("train"):
        size = images.index.sizes[row]
        cue, old = after.read(row, size), before.read(row, size)
        if not images.index.image_labels[row].any():
            assert (cue == 0).all()
            continue
        foreground = (old != 0) & (old != 255)
        salient = left[row, : size[0], : size[1]] == 255
        np.testing.assert_array_equal(cue, np.where(foreground, old, np.where(salient, 255, 0)))


def test_seeds_hold_the_cues_and_every_class_has_some(tiny_run: Path, images: ImageStore) -> None:
    cues = LabelStore(tiny_run / "data/cues.zarr", "cue", stage="cues")
    seeds = LabelStore(tiny_run / "data/rounds/1/seeds.zarr", "seed", stage="relabel")
    for row in images.index.rows("train"):
        size = images.index.sizes[row]
        cue, seed = cues.read(row, size), seeds.read(row, size)
        np.testing.assert_array_equal(seed[cue != 255], cue[cue != 255])
        assert (cue != 255).any()


def test_cams_and_probabilities_lie_in_their_range(tiny_run: Path, images: ImageStore) -> None:
    cams = ScoreStore(tiny_run / "data/cams.zarr", "cam", stage="cams")
    probs = ScoreStore(tiny_run / "data/rounds/2/probs.zarr", "probs", stage="relabel")
    for row in images.index.rows("train"):
        count = int(images.index.image_labels[row].sum())
        cells = count_cells(images.index.sizes[row], 4)
        maps = cams.read(row, count, cells)
        if count:
            assert maps.min() >= 0
            assert set(maps.max(axis=(1, 2)).tolist()) <= {0.0, 1.0}
        np.testing.assert_allclose(probs.read(row, count + 1, cells).sum(axis=0), 1, atol=0.01)


def test_a_segmenter_says_how_rare_foreground_was_in_what_it_learned_from(
    tiny_run: Path, images: ImageStore
) -> None:
    rows = images.index.rows("train").tolist()
    sources = {"1": ("data/cues.zarr", "cue"), "2": ("data/rounds/1/pseudo_labels.zarr", "pseudo_label")}
    for key, (place, array) in sources.items():
        store = LabelStore(tiny_run / place, array, stage="")
        maps = [store.read(row, images.index.sizes[row]) for row in rows]
        counts = [((found == 0).mean(), ((found > 0) & (found != 255)).mean()) for found in maps]
        spec = load_segmenter_spec(tiny_run / f"data/rounds/{key}/segmenter.safetensors")
        assert spec.log_odds == pytest.approx(measure_log_odds(counts), abs=1e-6) != 0


def test_the_second_round_learned_something_else(tiny_run: Path) -> None:
    hashes = hash_outputs(tiny_run, [f"data/rounds/{key}/segmenter.safetensors" for key in ("1", "2")])
    assert len(set(hashes.values())) == 2


def test_curves_and_scores_are_numbers(tiny_run: Path) -> None:
    for key in ("1", "2"):
        curve = read_json(tiny_run / f"metrics/rounds/{key}/train.json")["loss"]
        assert [point["step"] for point in curve] == [1, 2]
        assert all(np.isfinite(point["loss"]) for point in curve)
        scores = read_json(tiny_run / f"metrics/rounds/{key}/evaluate.json")
        assert 0 <= scores["val"]["raw"]["miou"] <= 1
    shares = read_json(tiny_run / "metrics/cues.json")
    total = sum(shares[name] for name in ("foreground", "background", "unlabelled"))
    assert total == pytest.approx(1, abs=2e-6)  # each is rounded to six digits


@pytest.mark.parametrize("stage", ["cams", "cues", "relabel@1", "refine@1"])
def test_the_same_again_gives_the_same_bytes(tiny_run: Path, tmp_path: Path, stage: str) -> None:
    params = build_params()
    workspace = copy_workspace(tiny_run, tmp_path)
    places = [place for place in list_outputs(params) if place.startswith("data/")]
    before = hash_outputs(tiny_run, places)
    with without_tracking():
        run_stage(params, workspace, stage)
    assert hash_outputs(tmp_path, places) == before


@pytest.mark.parametrize("stage", ["cues", "refine@2"])
def test_processes_give_the_same_bytes_as_none(tiny_run: Path, tmp_path: Path, stage: str) -> None:
    params = build_params(compute={"workers": 2})
    workspace = copy_workspace(tiny_run, tmp_path)
    run_stage(params, workspace, stage)
    places = ["data/cues.zarr", "data/rounds/2/pseudo_labels.zarr"]
    assert hash_outputs(tmp_path, places) == hash_outputs(tiny_run, places)


def test_thresholded_cues_work_as_well(tiny_run: Path, tmp_path: Path, images: ImageStore) -> None:
    params = build_params(cues={"rule": "threshold", "fg_threshold": 0.4, "bg_threshold": 0.2})
    run_stage(params, copy_workspace(tiny_run, tmp_path), "cues")
    store = LabelStore(tmp_path / "data/cues.zarr", "cue", stage="cues")
    for row in images.index.rows("train"):
        present = list_present(images.index.image_labels[row])
        assert set(np.unique(store.read(row, images.index.sizes[row]))) <= {*present.tolist(), 255}


def test_no_picture_with_a_class_is_one_clear_line(tiny_run: Path, tmp_path: Path) -> None:
    from tasks.errors import UserError

    workspace = copy_workspace(tiny_run, tmp_path)
    labels = zarr.open_group(tmp_path / "data/images.zarr", mode="r+")["image_labels"]
    labels[:] = np.zeros(labels.shape, bool)  # type: ignore[union-attr,index]
    with pytest.raises(UserError, match="no training picture holds a class: give image labels to learn from"):
        run_stage(build_params(), workspace, "classify")


def test_a_stage_whose_input_is_gone_names_the_command_that_makes_it(
    tiny_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace = copy_workspace(tiny_run, tmp_path)
    write_params(build_params(), workspace.root)
    shutil.rmtree(workspace.path("data/cams.zarr"))
    shutil.rmtree(workspace.path("data/cues.zarr"))
    assert main(["cues", "--root", str(workspace.root)]) == 2
    assert "Run: dvc repro cams" in capsys.readouterr().err
    assert not workspace.path("data/cues.zarr").exists()
