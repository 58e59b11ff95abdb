"""Folders that take seconds to make, made once by all processes of a test run."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock


def build_once(name: str, build: Callable[[Path], object], factory: pytest.TempPathFactory) -> Path:
    """Build a folder that all processes of a test run share; whoever needs it first does it.

    Parameters
    ----------
    name : str
        Of the folder.
    build : callable
        Given the folder, which is empty.
    factory : pytest.TempPathFactory

    Returns
    -------
    Path
        The folder. Nobody may change it.
    """
    base = factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    place, built = shared / name / "once", shared / name / "built"
    place.parent.mkdir(exist_ok=True)
    with FileLock(place.with_suffix(".lock")):
        if not built.exists():
            shutil.rmtree(place, ignore_errors=True)  # of a process that failed
            place.mkdir(parents=True)
            build(place)
            built.touch()
    return place
