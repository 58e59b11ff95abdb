"""What costs seconds and is made once: Prefect's test server, a workspace that can draw."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from shared_folders import build_once


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A temporary Prefect server and database, thrown away afterwards."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=600):
        yield


@pytest.fixture(scope="session")
def drawing_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace that can draw, and its ``model.onnx``. Not to be changed: use `drawing_workspace`."""
    from tiny_drawing import build_workspace

    return build_once("drawing", build_workspace, tmp_path_factory)


@pytest.fixture
def drawing_workspace(drawing_once: Path, tmp_path: Path) -> Path:
    """A copy of the workspace that can draw."""
    return shutil.copytree(drawing_once, tmp_path / "workspace")
