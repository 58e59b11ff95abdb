"""DVC on the real graph, with toy bodies: what runs again, what does not."""

from __future__ import annotations

from pathlib import Path

import pytest
from toy_project import LATER_THAN_REFINE, change_params, run_dvc, take_bodies

from flows.params_file import edit_params
from flows.versioning import (
    Outcome,
    VersioningError,
    is_up_to_date,
    list_edges,
    list_stages,
    prepare,
    reproduce_stage,
)
from tasks.__main__ import STAGES
from tasks.errors import UserError
from tasks.params import read_params


def test_the_graph_holds_every_stage_and_round(toy_project: Path):
    names = list_stages(toy_project)
    assert {name.split("@")[0] for name in names} == {stage.name for stage in STAGES}
    assert {"train@1", "train@2"} <= set(names)
    for earlier, later in list_edges(toy_project):
        assert names.index(earlier) < names.index(later)


def test_a_second_repro_runs_nothing(done_project: Path):
    run_dvc(done_project, "repro")
    assert take_bodies(done_project) == []
    assert all(is_up_to_date(done_project, name) for name in list_stages(done_project))


def test_a_crf_weight_of_refine_runs_refine_and_later_only(done_project: Path):
    change_params(done_project, refine__crf__bilateral_weight=6.5)
    run_dvc(done_project, "repro")
    assert sorted(take_bodies(done_project)) == sorted(LATER_THAN_REFINE)


@pytest.mark.slow
def test_params_of_later_rounds_leave_round_1_alone(done_project: Path):
    change_params(done_project, retrain__lr=0.0017)
    run_dvc(done_project, "repro")
    ran = take_bodies(done_project)
    assert "train@2" in ran
    assert "train@1" not in ran


@pytest.mark.slow
def test_a_third_round_runs_only_itself_and_what_sums_up(done_project: Path):
    edit_params(done_project, rounds=3)
    run_dvc(done_project, "repro")
    # the reference trains as many steps as all rounds together
    assert sorted(take_bodies(done_project)) == sorted(
        ["train@3", "relabel@3", "refine@3", "evaluate@3", "reference", "report"]
    )


@pytest.mark.slow
def test_earlier_params_come_back_from_the_cache(done_project: Path):
    before = (done_project / "data/rounds/2/pseudo_labels.zarr/content.txt").read_text()
    weight = read_params(done_project / "params.yaml").refine.crf.bilateral_weight
    change_params(done_project, refine__crf__bilateral_weight=6.5)
    run_dvc(done_project, "repro")
    assert (done_project / "data/rounds/2/pseudo_labels.zarr/content.txt").read_text() != before
    take_bodies(done_project)
    change_params(done_project, refine__crf__bilateral_weight=weight)
    run_dvc(done_project, "repro")
    assert take_bodies(done_project) == []
    assert (done_project / "data/rounds/2/pseudo_labels.zarr/content.txt").read_text() == before


def test_machine_params_run_nothing(done_project: Path):
    change_params(done_project, compute__workers=3)
    run_dvc(done_project, "repro")
    assert take_bodies(done_project) == []


def test_new_truth_runs_scoring_only(done_project: Path):
    (done_project / "data/truth.zarr/content.txt").write_text("other masks")
    for stage in ("classify", "cams", "cues", "train@1", "relabel@1", "refine@1"):
        assert is_up_to_date(done_project, stage)
    for stage in ("baseline", "evaluate@1", "reference"):
        assert not is_up_to_date(done_project, stage)


def test_a_stage_that_fails_is_told_in_its_own_words(toy_project: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PYTHONPATH", str(toy_project))
    (toy_project / "fail_ingest").touch()
    lines: list[str] = []
    outcome = reproduce_stage(toy_project, "ingest", on_line=lines.append)
    assert outcome == Outcome(error="`data/toy.zarr` was told to fail in ingest. Remove: fail_ingest")
    assert not is_up_to_date(toy_project, "ingest")
    (toy_project / "fail_ingest").unlink()
    assert reproduce_stage(toy_project, "ingest", on_line=lines.append).error is None
    assert "PROGRESS ingest 3 4" in lines
    assert is_up_to_date(toy_project, "ingest")


def test_a_folder_without_a_pipeline_is_named(tmp_path: Path):
    with pytest.raises(VersioningError, match=r"has no dvc\.yaml: go to the project's folder"):
        prepare(tmp_path)


def test_a_project_outside_of_git_works(toy_project: Path, tmp_path: Path):
    plain = tmp_path / "archive"
    toy_project.rename(plain)
    for file in sorted((plain / ".git").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (plain / ".git").rmdir()
    prepare(plain)
    assert not is_up_to_date(plain, "ingest")


def test_edits_keep_comments_and_write_nothing_invalid(toy_project: Path):
    path = toy_project / "params.yaml"
    before = path.read_text()
    assert edit_params(toy_project, settings=["train.lr=0.25"])
    changed = [
        (old, new)
        for old, new in zip(before.splitlines(), path.read_text().splitlines(), strict=True)
        if old != new
    ]
    assert len(changed) == 1
    assert changed[0][1].split("#")[0].split() == ["lr:", "0.25"]
    assert "#" in changed[0][1]
    kept = path.read_text()
    with pytest.raises(UserError, match=r"`train\.lrr` is no known key; did you mean `lr`"):
        edit_params(toy_project, settings=["train.lrr=1"])
    with pytest.raises(UserError, match=r"`--set` must be KEY=VALUE"):
        edit_params(toy_project, settings=["train.lr"])
    assert path.read_text() == kept
    assert not edit_params(toy_project, settings=["train.lr=0.25"])


@pytest.mark.parametrize("said", ["rounds: 3", "rounds: {1: {prev: cues}}", "rounds: {}", None])
def test_rounds_that_cannot_be_are_written_anew(toy_project: Path, said: str | None):
    path = toy_project / "params.yaml"
    right = path.read_text()
    wrong = right.split("\nrounds:")[0] + f"\n{said}\n"
    path.write_text(wrong if said else right.replace("final_round: '2'", "final_round: '3'"))
    with pytest.raises(UserError, match=r"run `dsrg rounds \d`"):
        read_params(path)
    assert edit_params(toy_project, rounds=2)
    assert read_params(path).round_keys == ("1", "2")
    edit_params(toy_project, rounds=1)
    assert read_params(path).final_round == "1"


def test_own_pictures_are_named_as_the_project_sees_them(toy_project: Path, tmp_path: Path):
    from tasks.params import read_params

    inside, outside = toy_project / "pictures", tmp_path / "elsewhere"
    inside.mkdir()
    outside.mkdir()
    edit_params(toy_project, folder=inside)
    assert read_params(toy_project / "params.yaml").source.path == "pictures"
    edit_params(toy_project, folder=outside)
    source = read_params(toy_project / "params.yaml").source
    assert (source.kind, source.path) == ("folder", str(outside))


def test_the_current_directory_does_not_matter(
    done_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert is_up_to_date(done_project, "train@1")
