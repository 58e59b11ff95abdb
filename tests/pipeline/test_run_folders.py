"""Folders of runs from the UI, with real git and real DVC, on the real graph with toy bodies."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from toy_project import run_dvc, take_bodies

from flows.params_file import edit_params
from flows.run_folders import list_run_folders, open_run_folder, reach_pictures, remove_run_folder
from tasks.errors import UserError
from tasks.params import read_params


def git(folder: Path, *arguments: str) -> str:
    who = {f"GIT_{role}_{item}": "a@b" for role in ("AUTHOR", "COMMITTER") for item in ("NAME", "EMAIL")}
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(
        command, env={**os.environ, **who}, check=True, capture_output=True, text=True
    ).stdout


def change(folder: Path, setting: str) -> None:
    edit_params(folder, settings=[setting])


def append(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)


@pytest.fixture
def project(toy_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("PYTHONPATH", raising=False)
    append(toy_project / ".gitignore", "/bodies.log\n")
    git(toy_project, "add", "-A")
    git(toy_project, "commit", "-qm", "start")
    return toy_project


def test_a_run_folder_holds_the_project_as_it_is_on_disk(project: Path):
    append(project / "dsrg" / "cam.py", "# changed\n")
    (project / "dsrg" / "new.py").write_text("# new\n")
    (project / "dsrg" / "plots.py").unlink()
    (project / "photographs.bin").write_bytes(bytes(10))
    before = git(project, "status", "--porcelain")

    folder = open_run_folder(project, "birds-r2-1234")
    assert (folder / "dsrg" / "cam.py").read_text().endswith("# changed\n")
    assert (folder / "dsrg" / "new.py").exists()
    assert not (folder / "dsrg" / "plots.py").exists()
    assert not (folder / "photographs.bin").exists()
    assert git(project, "status", "--porcelain") == before

    edit_params(folder, settings=["train.lr=0.5"])
    assert open_run_folder(project, "birds-r2-1234") == folder
    assert read_params(folder / "params.yaml").train.lr == 0.5, "a retry must go on with its own params"
    assert read_params(project / "params.yaml").train.lr != 0.5
    assert list_run_folders(project) == [folder]
    remove_run_folder(project, "birds-r2-1234")
    assert list_run_folders(project) == []
    assert git(project, "worktree", "list").count("\n") == 1


def test_what_the_project_computed_is_there_and_up_to_date(project: Path):
    from flows.versioning import is_up_to_date, reproduce_stage

    run_dvc(project, "repro", "cues")
    take_bodies(project)
    folder = open_run_folder(project, "again")
    assert is_up_to_date(folder, "cues")
    assert not is_up_to_date(folder, "train@1")
    assert (folder / "data/cues.zarr/content.txt").read_bytes() == (
        project / "data/cues.zarr/content.txt"
    ).read_bytes()

    outcome = reproduce_stage(folder, "train@1", on_line=lambda line: None)
    assert outcome.error is None
    assert take_bodies(folder) == ["train@1"]
    run_dvc(project, "repro", "train@1")
    assert take_bodies(project) == [], "the project must find in the cache what the run computed"


def test_a_folder_that_was_made_half_is_made_anew(project: Path):
    half = project / ".work" / "runs" / "half"
    half.mkdir(parents=True)
    (half / "params.yaml").write_text("rubbish")
    assert read_params(open_run_folder(project, "half") / "params.yaml")


@pytest.mark.slow
def test_a_run_starts_from_a_finished_one(project: Path):
    from flows.versioning_runs import save_experiment

    first = open_run_folder(project, "first", configure=lambda folder: change(folder, "train.lr=0.5"))
    run_dvc(first, "repro", "cues")
    git(first, "add", "-A")
    git(first, "commit", "-qm", "as a finished run would be kept")
    git(first, "tag", "first-kept")
    assert save_experiment(first, "first") is None, (
        "a run whose stages are not all up to date is not finished"
    )
    remove_run_folder(project, "first")

    second = open_run_folder(project, "second", base="first-kept")
    assert read_params(second / "params.yaml").train.lr == 0.5
    assert "train.lr: 0.5" not in (project / "params.yaml").read_text()
    assert (second / "data/cues.zarr/content.txt").exists()
    with pytest.raises(UserError, match="run 'nope' not found"):
        open_run_folder(project, "third", base="nope")
    assert [folder.name for folder in list_run_folders(project)] == ["second"]


def test_params_that_cannot_be_leave_no_folder(project: Path):
    with pytest.raises(UserError, match=r"train\.lr"):
        open_run_folder(project, "bad", configure=lambda folder: change(folder, "train.lr=-1"))
    assert list_run_folders(project) == []


def test_pictures_in_the_project_but_not_in_git_are_reached(project: Path):
    (project / "birds").mkdir()
    (project / "birds" / "a.txt").write_text("a")
    folder = open_run_folder(project, "run")
    reach_pictures(project, folder, ['source.path="birds"'])
    assert (folder / "birds" / "a.txt").read_text() == "a"


def test_without_git_a_run_has_a_plain_copy(tmp_path: Path, project: Path):
    import shutil

    from flows.versioning import is_up_to_date, prepare

    bare = tmp_path / "unpacked"
    shutil.copytree(project, bare, ignore=shutil.ignore_patterns(".git"))
    prepare(bare)
    run_dvc(bare, "repro", "ingest")
    folder = open_run_folder(bare, "run")
    assert is_up_to_date(folder, "ingest")
    with pytest.raises(UserError, match="no git repository"):
        open_run_folder(bare, "other", base="run")
    remove_run_folder(bare, "run")
    assert list_run_folders(bare) == []
