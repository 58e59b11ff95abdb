"""A fresh clone for `dsrg doctor` to look at, and shortcuts to what it finds."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.doctor import Finding, Patient, read_params_anyhow

PROJECT = Path(__file__).resolve().parents[1]


def build_clone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone, in a home where nothing is set up."""
    root, home = tmp_path / "work", tmp_path / "home"
    home.mkdir()
    root.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, root)
    (root / ".dvc").mkdir()
    shutil.copy(PROJECT / ".dvc" / "config", root / ".dvc")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    for name in (
        *("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME", "PREFECT_PROFILES_PATH", "XDG_CONFIG_HOME"),
        *("MLFLOW_TRACKING_URI", "NUMBA_CACHE_DIR", "TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME"),
        *("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    return root


def see(root: Path, **environ: str) -> Patient:
    params, _ = read_params_anyhow(root)
    return Patient(root, params, {**os.environ, **environ})


def set_params(root: Path, **sections: dict[str, Any]) -> None:
    yaml = YAML()
    values = yaml.load(root / "params.yaml")
    for section, changes in sections.items():
        values[section].update(changes)
    yaml.dump(values, root / "params.yaml")


def only(findings: Any, state: str) -> Finding:
    """The one finding there is, which must be of a state, with a remedy unless all is well."""
    listed = list(findings)
    assert len(listed) == 1, listed
    assert listed[0].state == state, listed
    assert bool(listed[0].remedy) == (state != "ok"), listed
    return listed[0]
