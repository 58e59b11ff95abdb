"""What must not change a byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_project import (
    build_params,
    copy_workspace,
    hash_outputs,
    list_label_stages,
    list_outputs,
    run_stage,
    without_tracking,
)


@pytest.mark.slow
def test_any_number_of_workers_gives_the_same_bytes(tiny_run: Path, tmp_path: Path) -> None:
    """Loaders of training in processes of their own, CRFs and predictions side by side."""
    params = build_params(compute={"workers": 3})
    copied = copy_workspace(tiny_run, tmp_path)
    with without_tracking():
        for stage in list_label_stages(params):
            run_stage(params, copied, stage)
    assert hash_outputs(tmp_path, list_outputs(params)) == hash_outputs(tiny_run, list_outputs(params))
