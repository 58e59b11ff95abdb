"""What must not change a byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_project import build_params, copy_workspace, hash_outputs, list_outputs, remake_labels


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bytes(tiny_run: Path, tmp_path: Path) -> None:
    """Loaders of training in processes of their own, CRFs and predictions side by side."""
    params = build_params(compute={"workers": 3})
    made = remake_labels(params, copy_workspace(tiny_run, tmp_path))
    assert made == hash_outputs(tiny_run, list_outputs(params))
