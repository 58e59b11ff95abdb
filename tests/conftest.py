"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest
from shared_folders import build_once
from toy_project import build_toy, run_dvc, take_bodies

# a shell's background jobs ignore Ctrl-C, and so would all that tests start in them
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

PROJECT = Path(__file__).resolve().parent.parent
# Minutes each. Begun last, one of them would keep one core busy and leave the other idle.
LONGEST = ("test_kills", "test_served_training", "test_served_runs", "test_doors", "test_bench_quality")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest (with ``--no-loadscope-reorder``)."""
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


@pytest.fixture
def project_root() -> Path:
    """The repository."""
    return PROJECT


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's database without runs: to be copied, because making one takes seconds."""
    from mlflow import MlflowClient

    def build(place: Path) -> None:
        MlflowClient(f"sqlite:///{place}/mlflow.db").search_experiments()

    return build_once("mlflow", build, tmp_path_factory) / "mlflow.db"


@pytest.fixture
def toy_project(tmp_path: Path) -> Path:
    """A project with the real graph, params and command line, and toy bodies for the stages."""
    return build_toy(tmp_path / "toy")


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
