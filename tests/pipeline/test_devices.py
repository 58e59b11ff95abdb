"""Stages that train on two devices, as processes that share the cores of a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_project import build_params, copy_workspace, read_losses, run_in_process, write_params

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def run(root: Path, source: Path, stage: str, *, devices: int) -> list[float]:
    """Train a stage on so many devices; return the losses of its steps."""
    root.mkdir()
    copy_workspace(source, root)
    params = build_params(
        compute={"devices": devices, "workers": 2},
        train={"batch_size": 4, "dropout": 0.0},
        classify={"batch_size": 4},
    )
    write_params(params, root)
    with run_in_process(root, stage) as process:
        said, _ = process.communicate()
    assert process.returncode == 0, said
    assert "GLOBAL_RANK" not in said
    return read_losses(root, stage)


@pytest.mark.parametrize("stage", ["classify", "train@1", "train@2"])
def test_two_devices_learn_as_one_does(stage: str, tiny_run: Path, tmp_path: Path) -> None:
    alone = run(tmp_path / "one", tiny_run, stage, devices=1)
    together = run(tmp_path / "two", tiny_run, stage, devices=2)
    assert len(alone) == len(together) > 1
    np.testing.assert_allclose(together, alone, rtol=2e-3)


def test_a_batch_that_cannot_be_shared_out_is_one_line(tiny_run: Path, tmp_path: Path) -> None:
    copy_workspace(tiny_run, tmp_path)
    write_params(build_params(compute={"devices": 2}), tmp_path)
    with run_in_process(tmp_path, "classify") as process:
        said, _ = process.communicate()
    assert process.returncode == 2
    assert said.splitlines()[-1] == "error: 5 samples a step are no multiple of the 2 devices: change one"
