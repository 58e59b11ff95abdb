"""Fixtures that more than one folder of tests uses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from shared_folders import build_once
from toy_project import build_toy

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("DVC_NO_ANALYTICS", "1")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("DO_NOT_TRACK", "true")

PROJECT = Path(__file__).resolve().parent.parent


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
