"""Outputs appear whole or not at all, and killed work is found again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from tasks.errors import UserError
from tasks.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


def test_a_clean_exit_publishes_and_leaves_no_work(workspace: Workspace):
    with workspace.stage("cams", fingerprint={"size": 3}) as work:
        work.partial("cams.zarr").mkdir()
        (work.partial("cams.zarr") / "a").write_text("new")
        assert not workspace.path("data/cams.zarr").exists()
        work.publish("cams.zarr", "data/cams.zarr")
    assert (workspace.path("data/cams.zarr") / "a").read_text() == "new"
    assert not work.directory.exists()


def test_publishing_replaces_a_folder_whole(workspace: Workspace):
    workspace.path("data/cams.zarr").mkdir(parents=True)
    (workspace.path("data/cams.zarr") / "old").touch()
    with workspace.stage("cams", fingerprint={}) as work:
        work.partial("cams.zarr").mkdir()
        (work.partial("cams.zarr") / "new").touch()
        work.publish("cams.zarr", "data/cams.zarr")
    assert [path.name for path in workspace.path("data/cams.zarr").iterdir()] == ["new"]


@pytest.mark.parametrize("again", [False, True])
def test_publishing_to_another_disk(workspace: Workspace, monkeypatch: pytest.MonkeyPatch, again: bool):
    monkeypatch.setattr("tasks.workspace._share_disk", lambda one, other: False)
    for content in ("old", "new")[: 1 + again]:
        with workspace.stage("cams", fingerprint={}) as work:
            (work.partial("cams.zarr") / "c").mkdir(parents=True)
            (work.partial("cams.zarr") / "c" / content).write_text(content)
            work.partial("model").write_text(content)
            work.publish("cams.zarr", "data/cams.zarr")
            work.publish("model", "data/model")
    assert [path.name for path in workspace.path("data/cams.zarr/c").iterdir()] == [content]
    assert workspace.path("data/model").read_text() == content
    assert {path.name for path in workspace.path("data").iterdir()} == {"cams.zarr", "model"}


def test_a_copy_to_another_disk_that_fails_names_its_file(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("tasks.workspace._share_disk", lambda one, other: False)

    def fail(source: Path, target: Path) -> None:
        raise shutil.Error([(str(source), str(target / "c"), "[Errno 28] No space left on device")])

    monkeypatch.setattr("tasks.workspace.shutil.copytree", fail)
    with workspace.stage("cams", fingerprint={}) as work:
        work.partial("cams.zarr").mkdir()
        (work.partial("cams.zarr") / "c").touch()
        with pytest.raises(UserError, match=r"\.cams\.zarr\.partial/c` cannot be written: .*No space left"):
            work.publish("cams.zarr", "data/cams.zarr")
    assert not workspace.path("data/cams.zarr").exists()


def test_killed_work_is_found_again(workspace: Workspace):
    with pytest.raises(KeyboardInterrupt), workspace.stage("cams", fingerprint={"size": 3}) as work:
        work.partial("cams.zarr").write_text("half")
        work.mark_done("shard-0")
        raise KeyboardInterrupt
    with workspace.stage("cams", fingerprint={"size": 3}) as work:
        assert work.is_done("shard-0")
        assert not work.is_done("shard-1")
        assert work.partial("cams.zarr").read_text() == "half"


def test_work_for_other_params_is_not_found(workspace: Workspace):
    with pytest.raises(KeyboardInterrupt), workspace.stage("cams", fingerprint={"size": 3}) as old:
        old.mark_done("shard-0")
        raise KeyboardInterrupt
    with workspace.stage("cams", fingerprint={"size": 4}) as work:
        assert not work.is_done("shard-0")
        assert not old.directory.exists()
        assert work.digest != old.digest


def test_changed_code_finds_no_old_work_but_keeps_the_digest(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(KeyboardInterrupt), workspace.stage("cams", fingerprint={}) as old:
        raise KeyboardInterrupt
    monkeypatch.setattr("tasks.workspace.hash_code", lambda: "other code")
    with workspace.stage("cams", fingerprint={}) as work:
        assert work.directory != old.directory
        assert work.digest == old.digest


def test_two_at_once_are_refused(workspace: Workspace):
    with (
        workspace.stage("cams", fingerprint={}),
        pytest.raises(UserError, match=rf"`cams` is being worked on here by process {os.getpid()}: wait"),
        workspace.stage("cams", fingerprint={}),
    ):
        pass


def test_json_repeats_its_bytes(workspace: Workspace):
    values = {"b": np.float32(0.1), "a": [float("nan"), np.int64(2), 1 / 3], "c": np.array([1.0])}
    path = workspace.write_json("metrics/x.json", values)
    assert json.loads(path.read_text()) == {"a": [None, 2, 0.333333], "b": 0.1, "c": [1.0]}
    assert list(path.parent.iterdir()) == [path]
    assert path.read_text().endswith("}\n")


def test_a_missing_metric_names_its_stage(workspace: Workspace):
    with pytest.raises(UserError, match=r"`metrics/cues.json` not found\. Run: dvc repro cues"):
        workspace.read_json("metrics/cues.json", stage="cues")
