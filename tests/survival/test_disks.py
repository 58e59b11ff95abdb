"""Disks that are full or cannot be written: one line, nothing lost, and the same command goes on."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_data import torch_threads
from tiny_project import hash_outputs

from tasks.__main__ import main

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800), pytest.mark.filterwarnings("ignore")]

MEGABYTE = 2**20
DISK = 256 * MEGABYTE
OUTPUTS = {
    "ingest": ["metrics/ingest.json"],
    "classify": ["data/classifier.safetensors", "metrics/classify.json"],
    "cams": ["data/cams.zarr"],
    "cues": ["data/cues.zarr", "metrics/cues.json"],
    "baseline": ["metrics/baseline.json"],
    "train@1": ["data/rounds/1/segmenter.safetensors", "metrics/rounds/1/train.json"],
    "relabel@1": ["data/rounds/1/seeds.zarr", "data/rounds/1/probs.zarr"],
    "refine@1": ["data/rounds/1/pseudo_labels.zarr"],
    "evaluate@1": ["metrics/rounds/1/evaluate.json", "data/rounds/1/panels"],
    "reference": ["metrics/reference.json"],
    "report": ["metrics/summary.json", "reports/summary.md"],
}


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    place = tmp_path / "disk"
    place.mkdir()
    mount("-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(place))
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture
def root(disk: Path, tiny_run: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace on it in which everything was made already."""
    copied = shutil.copytree(tiny_run, disk / "project")
    shutil.copy(empty_mlflow, copied / "mlflow.db")
    for name in ("MLFLOW_TRACKING_URI", "DSRG_TRACKING_ROOT", "DSRG_MLFLOW_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DSRG_PROGRESS", "plain")
    return copied


def fill(disk: Path, *, leave: int) -> Path:
    """Fill the disk but for so many bytes."""
    ballast = disk / "ballast"
    ballast.unlink(missing_ok=True)
    free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with ballast.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, free - leave))
    return ballast


def run(stage: str, root: Path, capfd: pytest.CaptureFixture[str]) -> tuple[int, str]:
    name, _, key = stage.partition("@")
    with torch_threads(1):
        status = main([name, "--root", str(root), *(["--round", key] if key else [])])
    captured = capfd.readouterr()
    return status, captured.out + captured.err


@pytest.mark.parametrize("stage", OUTPUTS)
def test_a_full_disk_is_one_line_and_costs_nothing(
    stage: str, disk: Path, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    outputs = OUTPUTS[stage]
    before = hash_outputs(root, outputs)
    failed = []
    for leave in (0, 16_384, 65_536, 262_144, MEGABYTE, 4 * MEGABYTE, 16 * MEGABYTE, 128 * MEGABYTE):
        fill(disk, leave=leave)
        status, said = run(stage, root, capfd)
        assert "Traceback" not in said, said
        assert hash_outputs(root, outputs) == before
        if status == 0:
            break
        failed.append(leave)
        assert status == 2
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1
        assert "the disk is full" in errors[0]
        assert "the same command continues" in errors[0]
    assert failed
    assert status == 0


@pytest.mark.parametrize("stage", OUTPUTS)
def test_a_disk_that_cannot_be_written_is_one_line(
    stage: str, disk: Path, root: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    before = hash_outputs(root, OUTPUTS[stage])
    mount("-o", "remount,ro", str(disk))
    status, said = run(stage, root, capfd)
    assert status == 2
    assert re.fullmatch(rf"error: `{root}/[^`]*`: Read-only file system\n", said)
    mount("-o", "remount,rw", str(disk))
    assert hash_outputs(root, OUTPUTS[stage]) == before
