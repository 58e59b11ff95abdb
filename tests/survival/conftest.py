"""What the faults happen to."""

from __future__ import annotations

from pathlib import Path

import pytest
from shared_folders import build_once


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which every stage ran, on a handful of pictures. Not to be changed: copy it."""
    from tiny_project import run_everything

    return build_once("tiny", run_everything, tmp_path_factory)
