"""Killed and started again: what was finished is kept, and the bytes are those of a quiet run."""

from __future__ import annotations

import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_project import (
    build_params,
    copy_workspace,
    hash_outputs,
    run_in_process,
    run_stage,
    without_tracking,
    write_params,
)

from tasks.workspace import StageWork

SHARD = 4
PATIENCE = 900  # seconds; a stage takes ten on a quiet machine
QUIET = (
    "import contextlib\n"
    "from tasks import tracking\n"
    "tracking.stage_run = lambda *a, **k: contextlib.nullcontext(tracking.Run(None, None))\n"
)
SMALL_SHARDS = f"import dsrg.store as store\nstore.SHARD_IMAGES = store.SHARD_LABEL_MAPS = {SHARD}\n"
# The process holds still once the second shard is marked as done, so that the kill always meets it there.
PAUSE = (
    "import signal\n"
    "from tasks.workspace import StageWork\n"
    "whole = StageWork.mark_done\n"
    "def mark_done(self, unit):\n"
    "    whole(self, unit)\n"
    "    if unit.endswith('-1'):\n"
    "        signal.pause()\n"
    "StageWork.mark_done = mark_done\n"
)


def kill_when(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    """Kill a process without warning as soon as `ready` is true."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def finish(process: subprocess.Popen[str]) -> str:
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    return output


def read_first_step(output: str, description: str) -> int:
    """Read how far a stage was when it first told so."""
    found = re.search(rf"^PROGRESS {description} (\d+) \d+$", output, re.MULTILINE)
    assert found, output
    return int(found[1])


@pytest.mark.slow
def test_a_killed_training_continues_from_its_checkpoint(tiny_run: Path, tmp_path: Path) -> None:
    params = build_params(train={"epochs": 4})
    places = ["data/rounds/1/segmenter.safetensors", "metrics/rounds/1/train.json"]
    quiet = copy_workspace(tiny_run, tmp_path / "quiet")
    with without_tracking():
        run_stage(params, quiet, "train@1")
    root = copy_workspace(tiny_run, tmp_path / "killed").root
    write_params(params, root)
    (root / places[0]).unlink()
    process = run_in_process(root, "train@1", before=QUIET)
    kill_when(process, lambda: any(root.glob(".work/train@1/*/last.ckpt")))
    assert not any((root / place).exists() for place in places)
    output = finish(run_in_process(root, "train@1", before=QUIET))
    assert read_first_step(output, "train@1") > 1
    assert hash_outputs(root, places) == hash_outputs(quiet.root, places)
    assert not [path for path in root.glob(".work/train@1/*") if path.is_dir()]


@pytest.mark.parametrize(
    ("stage", "place"),
    [
        pytest.param("cams", "data/cams.zarr", marks=pytest.mark.slow),
        ("refine@1", "data/rounds/1/pseudo_labels.zarr"),
    ],
)
def test_a_killed_map_stage_keeps_its_finished_shards(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, place: str
) -> None:
    quiet = copy_workspace(tiny_run, tmp_path / "quiet")
    for name in (
        "tasks.score_maps.SHARD_IMAGES",  # first: what is imported here must find the true ones in dsrg.store
        "tasks.label_maps.SHARD_LABEL_MAPS",
        "dsrg.store.SHARD_IMAGES",
        "dsrg.store.SHARD_LABEL_MAPS",
    ):
        monkeypatch.setattr(name, SHARD)
    run_stage(build_params(), quiet, stage)
    root = copy_workspace(tiny_run, tmp_path / "killed").root
    before = hash_outputs(root, [place])
    process = run_in_process(root, stage, before=SMALL_SHARDS + PAUSE)
    kill_when(process, lambda: any(root.glob(f".work/{stage}/*/done/*-1")))
    assert hash_outputs(root, [place]) == before  # what a quiet run made earlier is still whole
    output = finish(run_in_process(root, stage, before=SMALL_SHARDS))
    if stage == "cams":
        assert read_first_step(output, stage) > 2 * SHARD - 3
    else:
        assert re.search(rf"^PROGRESS {stage} 0 1$", output, re.MULTILINE), output  # one lot is left
    assert hash_outputs(root, [place]) == hash_outputs(quiet.root, [place])


@pytest.mark.parametrize("name", ["probs.zarr", "seeds.zarr"])
@pytest.mark.parametrize("moved", [False, True])
def test_a_stage_stopped_while_it_publishes_can_be_run_again(
    tiny_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, moved: bool
) -> None:
    """Between the first output's move and the end, marks speak of outputs that have moved away."""
    workspace = copy_workspace(tiny_run, tmp_path)
    whole = StageWork.publish

    def stop(self: StageWork, output: str, target: Any) -> Path:
        if output == name and not moved:
            raise KeyboardInterrupt
        place = whole(self, output, target)
        if output == name:
            raise KeyboardInterrupt
        return place

    params = build_params()
    with monkeypatch.context() as patch:
        patch.setattr(StageWork, "publish", stop)
        with pytest.raises(KeyboardInterrupt):
            run_stage(params, workspace, "relabel@1")
    run_stage(params, workspace, "relabel@1")
    places = ["data/rounds/1/probs.zarr", "data/rounds/1/seeds.zarr"]
    assert hash_outputs(tmp_path, places) == hash_outputs(tiny_run, places)
