"""A real training that is cancelled as in the Prefect UI, and retried there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from served_project import ServedProject
from tiny_project import build_params, write_params
from toy_project import commit, copy_project

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
EPOCHS = 100  # of two steps each: not over before it is cancelled
STEPS_BEFORE = 40


def test_a_cancelled_training_continues_at_its_checkpoint(tmp_path: Path):
    root = copy_project(tmp_path / "project")
    write_params(build_params(reference={"enabled": False}, train={"epochs": EPOCHS}), root)
    commit(root)
    with ServedProject(root, tmp_path / "prefect") as served:
        run = served.trigger("whole-pipeline", rounds=1)
        served.wait_for_task(run, "train@1", "Running", timeout=600)
        (folder,) = served.list_run_folders()
        wait_for_steps(folder, STEPS_BEFORE)
        served.cancel(run)
        served.wait_for(run, "CANCELLED")
        served.wait_until_idle(timeout=15)
        assert not (folder / "data/rounds/1/segmenter.safetensors").exists()
        done = count_steps(folder)
        assert STEPS_BEFORE <= done < 2 * EPOCHS

        served.retry(run)
        served.wait_for(run, "COMPLETED", timeout=900)
        (line,) = (text for text in served.list_logs(run) if "goes on after step" in text)
        # a step may have been recorded whose checkpoint was not yet written
        assert any(f"train@1: goes on after step {step} of {2 * EPOCHS}" in line for step in (done, done - 1))


def wait_for_steps(folder: Path, steps: int, *, timeout: float = 300.0) -> None:
    deadline = time.monotonic() + timeout
    while count_steps(folder) < steps:
        assert time.monotonic() < deadline
        time.sleep(0.2)


def count_steps(folder: Path) -> int:
    """Count the steps of the training at work in a run's folder."""
    return sum(file.read_text().count("\n") for file in (folder / ".work").rglob("train@1/**/steps.jsonl"))
