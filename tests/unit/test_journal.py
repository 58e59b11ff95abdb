"""What is noted of a result is found again with that result, and with no other."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks import journal
from tasks.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("DSRG_TRACKING_ROOT", raising=False)
    return Workspace(tmp_path / "project")


def make(workspace: Workspace, value: int) -> None:
    workspace.write_json("metrics/rounds/1/train.json", {"loss": value})


def test_results_that_come_back_bring_their_times(workspace: Workspace) -> None:
    for value in (1, 2):
        make(workspace, value)
        journal.note(workspace, "train@1", {"seconds": value, "machine": None})
    assert journal.recall(workspace, "train@1") == {"seconds": 2}
    make(workspace, 1)
    assert journal.recall(workspace, "train@1") == {"seconds": 1}
    make(workspace, 3)
    assert journal.recall(workspace, "train@1") == {}
    assert journal.recall(workspace, "train@2") == {}


def test_without_a_result_nothing_is_noted(workspace: Workspace) -> None:
    journal.note(workspace, "cams", {"seconds": 1})
    assert not workspace.path(".work").exists()


def test_what_was_noted_first_may_stay(workspace: Workspace) -> None:
    make(workspace, 1)
    journal.note(workspace, "train@1", {"commit": "first", "seconds": 1}, once=["commit"])
    journal.note(workspace, "train@1", {"commit": "second", "seconds": 2}, once=["commit"])
    assert journal.recall(workspace, "train@1") == {"commit": "first", "seconds": 2}


def test_runs_in_folders_of_their_own_note_in_the_project(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    apart = Workspace(tmp_path / "apart")
    monkeypatch.setenv("DSRG_TRACKING_ROOT", str(workspace.root))
    make(apart, 5)
    journal.note(apart, "train@1", {"seconds": 7})
    assert not apart.path(".work").exists()
    monkeypatch.delenv("DSRG_TRACKING_ROOT")
    make(workspace, 5)
    assert journal.recall(workspace, "train@1") == {"seconds": 7}


def test_only_so_many_results_are_kept_and_a_broken_file_starts_anew(workspace: Workspace) -> None:
    place = workspace.path(".work/journal.json")
    place.parent.mkdir(parents=True)
    place.write_text("{half")
    for value in range(journal._KEPT + 3):
        make(workspace, value)
        journal.note(workspace, "train@1", {"seconds": value})
    make(workspace, 2)
    assert journal.recall(workspace, "train@1") == {}
    make(workspace, 3)
    assert journal.recall(workspace, "train@1") == {"seconds": 3}
