"""Files that somebody else removed, and clocks that jumped: what is lost is made again, and nothing else."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from tiny_project import hash_outputs
from toy_project import run_dsrg, run_dvc, take_bodies

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

LOST = "data/cams.zarr"
KEPT = ["data/cues.zarr", "data/rounds/2/pseudo_labels.zarr", "metrics", "reports"]
YEAR_2100, YEAR_1970 = 4_102_444_800, 1


DOORS = {"dvc repro": lambda root: run_dvc(root, "repro"), "dsrg run": lambda root: run_dsrg(root, "run")}


def remove_from_cache(root: Path, output: str) -> None:
    """Remove a file of an output, a folder, from DVC's cache."""
    lock = YAML(typ="safe").load(root / "dvc.lock")
    (name,) = (
        out["md5"] for stage in lock["stages"].values() for out in stage["outs"] if out["path"] == output
    )
    cache = root / ".dvc" / "cache" / "files" / "md5"
    files = json.loads((cache / name[:2] / name[2:]).read_text())
    (cache / files[0]["md5"][:2] / files[0]["md5"][2:]).unlink()


@pytest.mark.parametrize("door", DOORS)
def test_what_was_deleted_from_the_cache_is_made_again(done_project: Path, door: str) -> None:
    before = hash_outputs(done_project, [LOST, *KEPT])
    remove_from_cache(done_project, LOST)
    shutil.rmtree(done_project / LOST)
    DOORS[door](done_project)
    assert take_bodies(done_project) == ["cams"]
    assert hash_outputs(done_project, [LOST, *KEPT]) == before


@pytest.mark.parametrize("when", [YEAR_2100, YEAR_1970])
def test_a_clock_that_jumped_runs_nothing_again(done_project: Path, when: int) -> None:
    before = hash_outputs(done_project, [LOST, *KEPT])
    for place in [
        *(done_project / "data").rglob("*"),
        done_project / "params.yaml",
        done_project / "dvc.lock",
    ]:
        os.utime(place, (when, when))
    run_dvc(done_project, "repro")
    assert take_bodies(done_project) == []
    assert hash_outputs(done_project, [LOST, *KEPT]) == before
