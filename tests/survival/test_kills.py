"""Killed at random points, again and again, by either door: the bytes are those of an undisturbed run."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from tiny_project import build_params, hash_outputs, list_outputs, write_params
from toy_project import build_environment, copy_project, run_dvc

from flows.versioning import is_up_to_date, list_stages

pytestmark = [pytest.mark.slow, pytest.mark.timeout(5400), pytest.mark.filterwarnings("ignore")]

SEED = 2018
PATIENCE = 900.0  # seconds until the next stage begins, on the slowest of machines
GONE_SECONDS = 90.0  # a process whose starter was killed ends by itself, the last of them by force
DOORS = {"dvc repro": ["-m", "dvc", "repro"], "dsrg run": ["-c", "from flows.cli import main; main()", "run"]}
# who is killed: what was typed, the stage that works, or all of it at once, as a power cut does
VICTIMS = ("door", "stage", "all")


@dataclass
class Kill:
    """One kill: the stage that was waited for, and what ran when it came; empty between two stages."""

    door: str
    stage: str
    victim: str
    seconds: float
    running: str = ""


@dataclass
class Project:
    """A project that is run, killed, and run again."""

    root: Path
    rng: random.Random
    seconds: dict[str, float]
    kills: list[Kill] = field(default_factory=list)

    def start(self, door: str) -> subprocess.Popen[bytes]:
        environment = {**build_environment(self.root), "PREFECT_HOME": str(self.root / ".prefect")}
        with (self.root / "said.log").open("ab") as said:
            return subprocess.Popen(
                [sys.executable, *DOORS[door]], cwd=self.root, env=environment, stdout=said, stderr=said
            )

    def run_with_kills(self, door: str) -> None:
        """Run by `door` until all is done, killing every stage once on the way."""
        left = set(self.seconds)
        process = self.start(door)
        deadline = time.monotonic() + PATIENCE
        while True:
            assert time.monotonic() < deadline, self.read_said()
            status = process.poll()
            if status == 0:
                break
            if status is not None:
                assert self.kills, self.read_said()  # nobody disturbed it, and yet it failed
                self.wait_until_gone()
                process = self.start(door)
                deadline = time.monotonic() + PATIENCE
            stage = next((name for name, _ in self.find_stages() if name in left), None)
            if stage is None:
                time.sleep(0.02)
                continue
            left.remove(stage)
            delay = self.rng.uniform(0, 0.9) * self.seconds[stage]
            time.sleep(delay)
            self.kill(process, Kill(door, stage, self.rng.choice(VICTIMS), delay))
            deadline = time.monotonic() + PATIENCE
        self.wait_until_gone()

    def kill(self, process: subprocess.Popen[bytes], kill: Kill) -> None:
        """Send SIGKILL; where no stage runs just then, because it ended meanwhile, to the command."""
        stages = self.find_stages()
        kill.running = ", ".join(name for name, _ in stages)
        if kill.victim == "stage" and not stages:
            kill.victim = "door"
        if kill.victim == "door":
            process.kill()
        elif kill.victim == "stage":
            for _, found in stages:
                _kill(found)
        else:
            for found in self.find_processes():
                _kill(found)
        if kill.victim != "stage":
            process.wait()
        self.kills.append(kill)

    def find_processes(self) -> list[psutil.Process]:
        """Find everything that works in the project's folder."""
        return [found for found in psutil.process_iter() if _works_in(found, self.root)]

    def find_stages(self) -> list[tuple[str, psutil.Process]]:
        """Find the stages that run: what DVC started, by name.

        Command lines are looked at first: a stage may be over before all have been asked for their folders.
        """
        stages = [(name, found) for found in psutil.process_iter() for name in _name_stage(found)]
        return [(name, found) for name, found in stages if _works_in(found, self.root)]

    def wait_until_gone(self) -> None:
        """Wait until nothing works here; what outlives its starter is a bug."""
        deadline = time.monotonic() + GONE_SECONDS
        while left := self.find_processes():
            assert time.monotonic() < deadline, [found.cmdline() for found in left]
            time.sleep(0.1)

    def read_said(self) -> str:
        return (self.root / "said.log").read_text(errors="replace")[-5000:]


def _kill(process: psutil.Process) -> None:
    try:
        process.kill()
    except psutil.NoSuchProcess:
        return


def _works_in(process: psutil.Process, root: Path) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(root)
    except (psutil.NoSuchProcess, psutil.AccessDenied, FileNotFoundError):
        return False


def _name_stage(process: psutil.Process) -> Iterator[str]:
    """Name the stage that a process is: ``python -m tasks train --round 1`` is ``train@1``."""
    try:
        words = process.cmdline()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return
    if words[1:3] == ["-m", "tasks"] and len(words) > 3:
        rounds = words[words.index("--round") + 1 :][:1] if "--round" in words else []
        yield "@".join([words[3], *rounds])


def measure_stages(root: Path) -> dict[str, float]:
    """Run the project undisturbed; return how many seconds each stage took."""
    project = Project(root, random.Random(SEED), {})
    process = project.start("dvc repro")
    seconds: Counter[str] = Counter()
    now = time.monotonic()
    while process.poll() is None:
        time.sleep(0.05)
        before, now = now, time.monotonic()
        for name, _ in project.find_stages():
            seconds[name] += now - before
    assert process.returncode == 0, project.read_said()
    return dict(seconds)


def build_project(root: Path) -> Path:
    copy_project(root)
    write_params(build_params(), root)
    return root


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, float]]:
    """A project that nothing disturbed, and how many seconds each of its stages took."""
    root = build_project(tmp_path_factory.mktemp("quiet") / "project")
    return root, measure_stages(root)


def list_results(root: Path) -> list[str]:
    """Everything that must not depend on what happened on the way."""
    numbers = [path for folder in ("metrics", "reports") for path in (root / folder).rglob("*")]
    files = [path.relative_to(root).as_posix() for path in numbers if path.suffix in (".json", ".md", ".csv")]
    return sorted({*list_outputs(build_params()), *files})


@pytest.mark.parametrize("door", DOORS)
def test_kills_at_random_points_change_nothing(
    quiet: tuple[Path, dict[str, float]], tmp_path: Path, door: str
):
    undisturbed, seconds = quiet
    root = build_project(tmp_path / "project")
    assert set(seconds) == set(list_stages(root))
    project = Project(root, random.Random(SEED), seconds)

    project.run_with_kills(door)

    print(tell(project.kills))
    results = list_results(undisturbed)
    assert hash_outputs(root, results) == hash_outputs(undisturbed, results)
    assert all(is_up_to_date(root, stage) for stage in seconds)
    assert "Running stage" not in run_dvc(root, "repro")
    assert Counter(kill.stage for kill in project.kills) == dict.fromkeys(seconds, 1)
    in_time = sum(kill.stage == kill.running for kill in project.kills)
    assert in_time > len(project.kills) / 2, "most stages ended before they were hit"


def tell(kills: list[Kill]) -> str:
    """Tell what was done, as a table."""
    lines = [
        f"{len(kills)} kills",
        "",
        "| door | stage | after, s | running | killed |",
        "|---|---|---:|---|---|",
    ]
    lines += [
        f"| {kill.door} | {kill.stage} | {kill.seconds:.1f} | {kill.running} | {kill.victim} |"
        for kill in kills
    ]
    return "\n".join(lines)
