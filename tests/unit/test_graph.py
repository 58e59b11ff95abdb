"""A stage's inputs as dvc.yaml names them, and a result that does not count because one changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tasks.errors import UserError
from tasks.graph import fail_if_changed, list_inputs
from tasks.params import Params, read_params


@pytest.fixture
def project(tmp_path: Path, project_root: Path) -> Path:
    for name in ("dvc.yaml", "params.yaml"):
        shutil.copy(project_root / name, tmp_path)
    for place in (
        "data/images.zarr/a/0",
        "data/cues.zarr/a/0",
        "data/classifier.safetensors",
        "tasks/train.py",
    ):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text("content")
    return tmp_path


@pytest.fixture
def params(project: Path) -> Params:
    return read_params(project / "params.yaml")


def test_templates_are_filled_in(project: Path, params: Params):
    deps, keys = list_inputs(project, params.model_dump(), "train", "2")
    assert {"data/rounds/1/pseudo_labels.zarr", "data/rounds/1/segmenter.safetensors"} < set(deps)
    assert keys == ["backbone", "train", "retrain", "rounds.2"]
    deps, _ = list_inputs(project, params.model_dump(), "ingest", None)
    assert deps[0] == params.source.path


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("tasks/train.py", "tasks/train.py"),
        ("data/cues.zarr/a/0", "data/cues.zarr"),
        ("data/images.zarr/b", "data/images.zarr"),
        ("dsrg/crf.py", "dsrg/crf.py"),
    ],
)
def test_a_changed_dependency_is_named(project: Path, params: Params, place: str, name: str):
    with (
        pytest.raises(UserError, match=rf"^`{name}` changed while train@1 worked, .*: run it again$"),
        fail_if_changed(project, params, "train", "1"),
    ):
        (project / place).parent.mkdir(exist_ok=True)
        (project / place).write_text("other content")


def test_a_changed_param_is_named_if_the_stage_has_it(project: Path, params: Params):
    text = (project / "params.yaml").read_text()
    changed = text.replace("  flip: true ", "  flip: false")
    assert changed != text
    with fail_if_changed(project, params, "train", "1"):
        (project / "params.yaml").write_text(changed)
    (project / "params.yaml").write_text(text)
    with (
        pytest.raises(UserError, match=r"^`params.yaml: cams` changed while cams worked"),
        fail_if_changed(project, params, "cams", None),
    ):
        (project / "params.yaml").write_text(changed)


def test_many_changes_are_one_line(project: Path, params: Params):
    with (
        pytest.raises(UserError, match=r"and \d more changed") as caught,
        fail_if_changed(project, params, "train", "1"),
    ):
        for name in ("crf", "growing", "losses", "samples", "store"):
            (project / "dsrg").mkdir(exist_ok=True)
            (project / "dsrg" / f"{name}.py").touch()
    assert "\n" not in str(caught.value)


def test_what_holds_the_same_has_not_changed(project: Path, params: Params):
    with fail_if_changed(project, params, "train", "1"):
        os.utime(project / "tasks/train.py", ns=(1, 1))
        (project / "data/rounds/1").mkdir(parents=True)
        (project / "data/rounds/1/segmenter.safetensors").touch()
        (project / "params.yaml").write_text("# a comment\n" + (project / "params.yaml").read_text())


def test_a_failure_of_the_stage_is_told_as_it_is(project: Path, params: Params):
    with pytest.raises(ZeroDivisionError), fail_if_changed(project, params, "train", "1"):
        (project / "tasks/train.py").write_text("other content")
        raise ZeroDivisionError


def test_without_a_graph_nothing_is_compared(project: Path, params: Params):
    (project / "dvc.yaml").unlink()
    with fail_if_changed(project, params, "train", "1"):
        (project / "tasks/train.py").write_text("other content")
