"""What costs seconds and is made once: Prefect's test server, one run of the toy, one of the whole method."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared_folders import build_once
from toy_project import build_toy, run_dvc, take_bodies


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A temporary Prefect server and database, thrown away afterwards."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=600):
        yield


@pytest.fixture(scope="session")
def done_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toy project after ``dvc repro``. Not to be changed: use `done_project`."""

    def build(place: Path) -> None:
        root = build_toy(place / "toy")
        run_dvc(root, "repro")
        take_bodies(root)

    return build_once("done", build, tmp_path_factory) / "toy"


@pytest.fixture
def done_project(done_once: Path, tmp_path: Path) -> Path:
    """A toy project in which every stage was run by ``dvc repro``."""
    return shutil.copytree(done_once, tmp_path / "toy")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which every stage ran, on a handful of pictures. Not to be changed: copy it."""
    from tiny_project import run_everything

    return build_once("tiny", run_everything, tmp_path_factory)


@pytest.fixture(scope="session")
def drawing_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that can draw, and its ``model.onnx``. Not to be changed: use `drawing_workspace`."""
    from tiny_drawing import build_workspace

    return build_once("drawing", build_workspace, tmp_path_factory)


@pytest.fixture
def drawing_workspace(drawing_once: Path, tmp_path: Path) -> Path:
    """A copy of the workspace that can draw."""
    return shutil.copytree(drawing_once, tmp_path / "workspace")
