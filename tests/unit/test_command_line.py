"""What every ``dsrg`` command does alike: errors, colour, completion, JSON."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = [sys.executable, "-c", "from flows.cli import main; main()"]
ESCAPE = "\x1b["


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    settings = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    return subprocess.run(
        [*PROGRAM, *arguments], env={**settings, **environ}, capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("presets", "nosuch"), "error: `--preset` must be one of demo"),
        (
            ("stages", "--root", "nowhere"),
            "error: `nowhere/params.yaml` not found: go to the project's folder",
        ),
        (("run", "--set", "train.lr=fast"), "error: params.yaml: `train.lr` must be"),
        (("run", "no/such/folder"), "no/such/folder"),
    ],
)
def test_what_a_user_can_mend_is_a_line_without_traceback(arguments: tuple[str, ...], text: str):
    ended = run(*arguments)
    assert ended.returncode == 2
    assert text in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


def test_wrong_usage_names_the_help():
    ended = run("rounds", "many")
    assert ended.returncode == 2
    assert "dsrg rounds --help" in ended.stderr or "rounds --help" in ended.stderr


def test_colour_is_for_terminals_that_want_it():
    plain = run("presets", "quick")
    assert ESCAPE not in plain.stdout
    assert ESCAPE in run("presets", "nosuch", FORCE_COLOR="1").stderr
    assert "\x1b[31m" not in run("presets", "nosuch", FORCE_COLOR="1", NO_COLOR="1").stderr


def test_a_shell_is_told_how_to_complete():
    told = run(_DSRG_COMPLETE="complete_bash", COMP_WORDS="dsrg exp", COMP_CWORD="1")
    assert told.stdout.split() == ["export"]


def test_json_is_all_that_stdout_holds(project_root: Path):
    told = json.loads(run("stages", "--json", "--root", str(project_root)).stdout)
    assert told[0]["stage"] == "ingest"
    assert {"stage", "state", "about"} == set(told[0])
