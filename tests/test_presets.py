"""Presets: the same keys in each, values that params.yaml takes, and nothing of one left by the next."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flows.cli import app
from flows.params_file import edit_params
from tasks.errors import UserError
from tasks.params import read_params
from tasks.presets import list_presets, read_preset

NAMES = {"demo", "quick", "paper-vgg16", "paper-resnet101", "modern"}


@pytest.fixture
def root(project_root: Path, tmp_path: Path) -> Path:
    """Return a copy of what presets are read from and written to."""
    shutil.copy(project_root / "params.yaml", tmp_path)
    shutil.copytree(project_root / "presets", tmp_path / "presets")
    return tmp_path


def test_they_are_all_there(project_root: Path):
    assert set(list_presets(project_root)) == NAMES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_sets_the_keys_that_all_set(project_root: Path, name: str):
    keys = {other: set(read_preset(project_root, other).list_values()) for other in NAMES}
    assert keys[name] == keys["demo"]


@pytest.mark.parametrize("name", sorted(NAMES))
def test_each_is_taken(root: Path, name: str):
    edit_params(root, preset=name)
    params = read_params(root / "params.yaml")
    assert read_preset(root, name).list_changes(params) == {}


def test_demo_is_what_the_project_comes_with(project_root: Path):
    assert read_preset(project_root, "demo").list_changes(read_params(project_root / "params.yaml")) == {}


def test_going_from_one_to_another_leaves_nothing_behind(root: Path):
    before = (root / "params.yaml").read_text()
    edit_params(root, preset="paper-vgg16")
    assert (root / "params.yaml").read_text() != before
    edit_params(root, preset="demo")
    assert (root / "params.yaml").read_text() == before


def test_what_else_is_asked_for_wins(root: Path):
    edit_params(root, preset="quick", rounds=3, settings=["train.epochs=5"])
    params = read_params(root / "params.yaml")
    assert (len(params.rounds), params.train.epochs, params.train.crop_size) == (3, 5, 192)


def test_a_file_of_ones_own_is_a_preset_too(root: Path, tmp_path: Path):
    text = (root / "presets" / "quick.yaml").read_text().replace("crop_size: 192", "crop_size: 160")
    (tmp_path / "mine.yaml").write_text(text)
    edit_params(root, preset=str(tmp_path / "mine.yaml"))
    assert read_params(root / "params.yaml").train.crop_size == 160


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("about: [", r"mine.yaml`: no valid YAML: "),
        ("about: x\nneeds: y\nnumbers: z\nrounds: 0\nparams: {}", r"mine.yaml`: `rounds`: Input should be"),
        (
            "about: x\nneeds: y\nnumbers: z\nrounds: 1\nparams: {train: {epoch: 1}}",
            r"`train.epoch` is no known",
        ),
        ("about: x\nneeds: y\nnumbers: z\nrounds: 1\nparams: {tarin: {lr: 1}}", r"`tarin` is no section"),
    ],
)
def test_a_file_that_is_none_is_refused_and_nothing_written(root: Path, text: str, message: str):
    before = (root / "params.yaml").read_text()
    (root / "mine.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        edit_params(root, preset=str(root / "mine.yaml"))
    assert (root / "params.yaml").read_text() == before


def test_an_unknown_name_lists_those_that_there_are(root: Path):
    with pytest.raises(
        UserError, match=r"`--preset` must be one of demo, modern, .*quick or a file, got 'qick'"
    ):
        edit_params(root, preset="qick")


def test_the_command_shows_what_would_change(root: Path):
    shown = CliRunner().invoke(app, ["presets", "quick", "--json", "--root", str(root)])
    assert shown.exit_code == 0
    assert json.loads(shown.stdout)["changes"]["train.crop_size"] == [256, 192]
    assert "VOC 2012" in CliRunner().invoke(app, ["presets", "--root", str(root)]).stdout
