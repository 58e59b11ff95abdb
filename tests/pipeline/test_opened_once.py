"""What names all pictures is read once by a stage, not once for every job."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from tiny_project import build_params, copy_workspace, run_stage, without_tracking

from dsrg.store import ImageStore
from tasks.pictures import open_images
from tasks.prepared import forget


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The image stores that are opened in this process."""
    places: list[Path] = []
    begin = ImageStore.__init__

    def begin_and_note(self: ImageStore, path: Path) -> None:
        places.append(path)
        begin(self, path)

    monkeypatch.setattr(ImageStore, "__init__", begin_and_note)
    return places


@pytest.mark.parametrize(
    "stage", ["cams", "cues", "baseline", "relabel@1", "refine@1", "evaluate@1", "evaluate@2"]
)
def test_a_stage_opens_its_pictures_once(
    stage: str, tiny_run: Path, tmp_path: Path, opened: list[Path]
) -> None:
    workspace = copy_workspace(tiny_run, tmp_path / "project")
    params = build_params(compute={"workers": 2}, report={"panels": 3})
    with without_tracking():
        run_stage(params, workspace, stage)
    assert opened == [workspace.path("data/images.zarr")]


def test_a_worker_of_a_cluster_opens_them_once_for_all_its_shards(
    tiny_run: Path, tmp_path: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def map_here(function: Any, jobs: Any, **_: Any) -> Any:
        return map(function, jobs)

    monkeypatch.setattr("tasks.cluster.map_on_cluster", map_here)
    monkeypatch.setattr("dsrg.store.SHARD_IMAGES", 4)
    monkeypatch.setattr("tasks.score_maps.SHARD_IMAGES", 4)
    workspace = copy_workspace(tiny_run, tmp_path / "project")
    run_stage(build_params(compute={"cluster": "local"}), workspace, "cams")
    assert opened == [workspace.path("data/images.zarr")]


def test_threads_that_begin_together_open_one_store(tiny_run: Path, opened: list[Path]) -> None:
    forget()
    with ThreadPoolExecutor(8) as pool:
        stores = set(pool.map(open_images, [tiny_run / "data/images.zarr"] * 32))
    assert len(stores) == len(opened) == 1


def test_other_pictures_in_the_same_place_are_read_anew_by_the_next_stage(
    tiny_run: Path, tmp_path: Path
) -> None:
    place = tmp_path / "images.zarr"
    shutil.copytree(tiny_run / "data/images.zarr", place)
    forget()
    before = open_images(place)
    assert open_images(place) is before
    forget()
    assert open_images(place) is not before
