"""Benches are commands of the README and the docs: they start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_every_bench_explains_itself(project_root: Path) -> None:
    paths = sorted((project_root / "bench").glob("*.py"))
    names = [path.stem for path in paths if "__main__" in path.read_text(encoding="utf-8")]
    assert "crf" in names
    without_tests = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    code = "import importlib, sys; [print(importlib.import_module(name).__doc__) for name in sys.argv[1:]]"
    done = subprocess.run(
        [sys.executable, "-c", code, *(f"bench.{name}" for name in names), "bench.quality"],
        cwd=project_root,
        env=without_tests,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("``python -m bench.") >= len(names), "each names its command"
