"""Format, lint and types hold for the whole project."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

LONGEST_MODULE = 400


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "format", "--check", "."],
        ["ruff", "check", "."],
        pytest.param(["mypy"], marks=pytest.mark.slow),  # half a minute where nothing is cached
    ],
    ids=["format", "lint", "types"],
)
def test_tool_finds_nothing(command: list[str], project_root: Path):
    done = subprocess.run([sys.executable, "-m", *command], cwd=project_root, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_no_module_is_too_long(project_root: Path):
    lengths = {
        str(path.relative_to(project_root)): len(path.read_text(encoding="utf-8").splitlines())
        for floor in ("dsrg", "tasks", "flows", "tests", "bench")
        for path in (project_root / floor).rglob("*.py")
    }
    assert {path: lines for path, lines in lengths.items() if lines > LONGEST_MODULE} == {}
