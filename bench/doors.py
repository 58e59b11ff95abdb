"""Time what the doors cost: ``python -m bench.doors``.

The same method on the same few pictures, four ways: the stages' functions one after the other in one
process; ``python -m tasks STAGE``, a process each; ``dvc repro``; ``dsrg run`` (Prefect with its own
temporary server, its database made before). Every way starts from a project of its own that holds
nothing yet but compiled kernels; the ways take turns, and medians are reported. Then what each door takes
when nothing is to do, and how long commands take to start. Writes ``bench/doors.json``.

Absolute times are those of the machine, and of what else ran on it: compare within a table.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.results import draw_table, write_result
from flows.versioning import list_stages
from tests.tiny_project import build_params, write_params
from tests.toy_project import copy_project

ROUNDS = 2
NO_OPS = 3
START_UPS = 7
DSRG = ("-c", "from flows.cli import main; main()")
FUNCTIONS = """
import importlib, sys, time
from pathlib import Path
from tasks.params import read_params
from tasks.workspace import Workspace
params, workspace = read_params(Path("params.yaml")), Workspace(Path())
for label in sys.argv[1:]:
    stage, _, key = label.partition("@")
    print(f"@ {label}", flush=True)
    importlib.import_module(f"tasks.{stage}").run(params, workspace, round_key=key or None)
"""
EMPTY_FLOW = "import flows; from prefect import flow; flow(lambda: None, name='empty')()"
Times = dict[str, float]


def time_lines(root: Path, arguments: tuple[str, ...], mark: str, *, last: str | None = None) -> Times:
    """Run Python; time what lies between lines that match `mark`, which names the stage that begins.

    With `last`, lines that match it name the stage that ends there.
    """
    found: Times = {}
    stage = "start"
    began = time.perf_counter()
    child = start(root, arguments)
    assert child.stdout is not None
    said = []
    for line in child.stdout:
        said.append(line)
        now = time.perf_counter()
        if match := re.search(mark, line):
            found[stage] = found.get(stage, 0.0) + now - began
            stage, began = match[1] if match.groups() else "rest", now
        elif last and (match := re.search(last, line)):
            found[match[1]], began = now - began, now
    if child.wait():
        raise RuntimeError("".join(said))
    found[stage] = found.get(stage, 0.0) + time.perf_counter() - began
    return found


def start(root: Path, arguments: tuple[str, ...]) -> subprocess.Popen[str]:
    """Start Python in a project, with the project's own code and Prefect's database beside it."""
    variables = {
        **{name: value for name, value in os.environ.items() if name != "PREFECT_API_URL"},
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
        "PYTHONPATH": str(root),
        "PYTHONUNBUFFERED": "1",
        "OMP_NUM_THREADS": "1",
        "PREFECT_HOME": str(root.parent / "prefect"),
    }
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=root,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def time_whole(root: Path, *arguments: str) -> float:
    """Time a run of Python from its start to its end."""
    return sum(time_lines(root, arguments, r"(?!)").values())


def run_functions(root: Path, stages: list[str]) -> Times:
    """Run all stages in one process."""
    return time_lines(root, ("-c", FUNCTIONS, *stages), r"^@ (\S+)")


def run_processes(root: Path, stages: list[str]) -> Times:
    """Run every stage in a process of its own."""
    found = {}
    for label in stages:
        stage, _, key = label.partition("@")
        found[label] = time_whole(root, "-m", "tasks", stage, *(["--round", key] if key else []))
    return found


def run_dvc(root: Path, stages: list[str]) -> Times:
    """Run all stages by ``dvc repro``."""
    return time_lines(root, ("-m", "dvc", "repro"), r"^Running stage '([^']+)'")


def run_prefect(root: Path, stages: list[str]) -> Times:
    """Run all stages by ``dsrg run``."""
    ends = r"Task run '([^']+)' - Finished in state"
    return time_lines(root, (*DSRG, "run"), r"Beginning flow run", last=ends)


WAYS: dict[str, Callable[[Path, list[str]], Times]] = {
    "functions": run_functions,
    "processes": run_processes,
    "dvc repro": run_dvc,
    "dsrg run": run_prefect,
}


def measure_runs(home: Path) -> tuple[dict[str, list[Times]], Path]:
    """Run every way some times, in turn; return the times, and a project in which all is done."""
    found: dict[str, list[Times]] = {name: [] for name in WAYS}
    compiled = done = prepare_project(home / "compiled")
    run_functions(compiled, list_stages(compiled))  # not counted: kernels are compiled, once an installation
    for number in range(ROUNDS):
        order = list(WAYS)[number % len(WAYS) :] + list(WAYS)[: number % len(WAYS)]
        for name in order:
            root = prepare_project(home / f"{name.replace(' ', '-')}-{number}", compiled=compiled)
            if number + len(found["dsrg run"]) == 0:
                time_whole(root, "-c", EMPTY_FLOW)  # makes Prefect's database
            times = WAYS[name](root, list_stages(root))
            found[name].append(times)
            print(f"{number + 1}/{ROUNDS} {name}: {sum(times.values()):.1f} s", file=sys.stderr)
            done = root if name == "dsrg run" else done
    return found, done


def prepare_project(root: Path, *, compiled: Path | None = None) -> Path:
    """Make a project that holds nothing yet; with what another one compiled of the same code."""
    copy_project(root)
    write_params(build_params(reference={"enabled": False}), root)
    if compiled is not None:
        for folder in compiled.rglob("__pycache__"):
            shutil.copytree(folder, root / folder.relative_to(compiled))
    return root


def measure_no_ops(done: Path) -> dict[str, float]:
    """Time the doors where nothing is to do, and a flow that does nothing."""
    commands = {
        "dvc repro": ("-m", "dvc", "repro"),
        "dsrg run": (*DSRG, "run"),
        "an empty flow": ("-c", EMPTY_FLOW),
    }
    return _take_turns(done, commands, NO_OPS)


def measure_start_ups(done: Path) -> dict[str, float]:
    """Time commands that should answer at once."""
    commands = {
        "python -c pass": ("-c", "pass"),
        "import flows.cli": ("-c", "import flows.cli"),
        "dsrg --help": (*DSRG, "--help"),
        "dsrg rounds 2": (*DSRG, "rounds", "2"),
        "dsrg stages": (*DSRG, "stages"),
        "dvc --help": ("-m", "dvc", "--help"),
    }
    return _take_turns(done, commands, START_UPS)


def _take_turns(root: Path, commands: dict[str, tuple[str, ...]], repeats: int) -> dict[str, float]:
    for command in commands.values():
        time_whole(root, *command)  # not counted: files come from the disk, bytecode is written
    wall: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(repeats):
        for name, command in commands.items():
            wall[name].append(time_whole(root, *command))
    return {name: round(statistics.median(seconds), 2) for name, seconds in wall.items()}


def find_medians(found: dict[str, list[Times]], stages: list[str]) -> list[dict[str, Any]]:
    """Find the medians by stage and way; ``start and end`` is what belongs to no stage."""
    rows = []
    for label in [*stages, "start and end", "in all"]:
        row: dict[str, Any] = {"stage": label}
        for name, runs in found.items():
            values = [_pick(run, label, stages) for run in runs]
            row[name] = round(statistics.median(values), 2)
        rows.append(row)
    return rows


def _pick(run: Times, label: str, stages: list[str]) -> float:
    if label == "in all":
        return sum(run.values())
    if label == "start and end":
        return sum(value for name, value in run.items() if name not in stages)
    return run.get(label, 0.0)


def main() -> None:
    """Measure, print tables, write the numbers."""
    argparse.ArgumentParser(
        prog="python -m bench.doors",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    with tempfile.TemporaryDirectory() as home:
        found, done = measure_runs(Path(home))
        stages = list_stages(done)
        rows = find_medians(found, stages)
        no_ops, start_ups = measure_no_ops(done), measure_start_ups(done)
    more = [f"{(rows[-1][name] - rows[-1]['functions']) / len(stages):.2f}" for name in WAYS]
    table = [(row["stage"], *(f"{row[name]:.1f}" for name in WAYS)) for row in rows]
    print(draw_table(("seconds", *WAYS), [*table, ("a stage more than functions", *more)]), "\n")
    for about, times in (("nothing to do", no_ops), ("start", start_ups)):
        print(draw_table((about, "seconds"), [(name, f"{one:.2f}") for name, one in times.items()]), "\n")
    write_result(__file__, runs_of_each_way=ROUNDS, rows=rows, nothing_to_do=no_ops, start_up=start_ups)


if __name__ == "__main__":
    main()
