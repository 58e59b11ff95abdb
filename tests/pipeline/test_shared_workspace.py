"""Both doors in one workspace: one lock, and no record of a result whose inputs changed meanwhile."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from toy_project import change_params, read_until, run_dvc, start_in, take_bodies

from flows.cli import app, guard
from flows.versioning import is_up_to_date, open_repo, reproduce_stage
from tasks.graph import list_inputs
from tasks.locking import HELD, WAIT, hold_workspace
from tasks.params import read_params

# as `dsrg run` does it, without Prefect
RUN = """
import sys
from pathlib import Path
from flows.versioning import reproduce_stage
from tasks.locking import hold_workspace
with hold_workspace(Path(), "dsrg run"):
    outcome = reproduce_stage(Path(), sys.argv[1], on_line=lambda line: print(line, flush=True))
print(outcome)
"""


@pytest.fixture
def project(toy_project: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHONPATH", str(toy_project))
    (toy_project / "run.py").write_text(RUN)
    return toy_project


def run_dsrg(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run ``dsrg`` in this process, up to its error; return that."""
    status = guard(lambda: app(list(arguments), standalone_mode=False))
    assert status == 2
    return capsys.readouterr().err


def test_dvc_repro_holds_the_workspace_stage_by_stage(project: Path, capsys: pytest.CaptureFixture[str]):
    (project / "sleep_ingest").touch()
    params = (project / "params.yaml").read_bytes()
    with start_in(project, "dvc", "repro", "ingest") as first:
        read_until(first, "ingest sleeps")
        said = run_dsrg(capsys, "run", "--set", "train.lr=0.5", "--root", str(project))
        assert re.search(
            r"in use by `ingest` \(process \d+\) since \d\d:\d\d:\d\d: `dsrg run --wait` waits", said
        )
        assert (project / "params.yaml").read_bytes() == params
        with start_in(project, "tasks", "cams") as second:
            _, errors = second.communicate()
        assert second.returncode == 2
        assert "in use by `ingest`" in errors
        with start_in(project, "tasks", "cams", DSRG_WAIT="1") as third:
            read_until(third, "cams: waiting for `ingest`")
            (project / "sleep_ingest").unlink()
            third.communicate()
        assert third.returncode == 0
        first.communicate()
    assert first.returncode == 0
    assert take_bodies(project) == ["ingest", "cams"]


def test_dvc_repro_is_told_of_a_run(project: Path):
    (project / "sleep_ingest").touch()
    with start_in(project, "run", "ingest") as first:
        read_until(first, "ingest sleeps")
        with start_in(project, "dvc", "repro") as second:
            _, errors = second.communicate()
        assert second.returncode != 0
        assert re.search(r"`dsrg run` \(process \d+\) since \d\d:\d\d:\d\d; `dsrg wait` waits for it", errors)
        (project / "sleep_ingest").unlink()
        said, _ = first.communicate()
    assert "error=None" in said
    assert take_bodies(project) == ["ingest"]


def test_a_stage_that_waits_within_dvc_does_not_stop_the_run_it_waits_for(project: Path):
    """DVC blocks a stage's files for as long as it waits, also for the run that it waits for."""
    with (
        hold_workspace(project, "dsrg run"),
        start_in(project, "dvc", "repro", "ingest", **{WAIT: "1", HELD: ""}) as second,
    ):
        read_until(second, "ingest: waiting for `dsrg run`")
        assert not is_up_to_date(project, "ingest")
        _, errors = second.communicate()
        assert second.returncode != 0
        assert re.search(
            r"`dsrg run` \(process \d+\) since .* has come to ingest itself: run `dsrg wait`", errors
        )
        assert reproduce_stage(project, "ingest", on_line=lambda line: None).error is None
    assert take_bodies(project) == ["ingest"]


def test_a_killed_run_leaves_the_workspace_free(project: Path):
    (project / "sleep_ingest").touch()
    with start_in(project, "run", "ingest") as first:
        read_until(first, "ingest sleeps")
        first.send_signal(signal.SIGKILL)
        first.communicate()
    (project / "sleep_ingest").unlink()
    with start_in(project, "run", "ingest") as second:
        said, errors = second.communicate()
    assert "the lock of `dsrg run`" in said, errors
    assert "error=None" in said


def edit_code(project: Path) -> None:
    place = project / "tasks" / "ingest.py"
    place.write_text(place.read_text() + "# another line\n")


def edit_params(project: Path) -> None:
    change_params(project, ingest__val_fraction=0.3)


@pytest.mark.parametrize("door", ["dvc repro", pytest.param("dsrg run", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("edit", "name"), [(edit_code, "tasks/ingest.py"), (edit_params, "params.yaml: ingest")]
)
def test_a_change_during_a_stage_is_not_recorded(
    project: Path, door: str, edit: Callable[[Path], None], name: str
):
    (project / "sleep_ingest").touch()
    module, *arguments = ["dvc", "repro", "ingest"] if door == "dvc repro" else ["run", "ingest"]
    with start_in(project, module, *arguments) as run:
        read_until(run, "ingest sleeps")
        edit(project)
        (project / "sleep_ingest").unlink()
        said, errors = run.communicate()
    line = f"`{name}` changed while ingest worked, so its result does not count: run it again"
    assert line in said + errors
    if door == "dvc repro":
        assert run.returncode != 0
    assert not (project / "dvc.lock").exists()
    assert not is_up_to_date(project, "ingest")
    assert reproduce_stage(project, "ingest", on_line=lambda line: None).error is None
    assert is_up_to_date(project, "ingest")
    assert take_bodies(project) == ["ingest", "ingest"]


def test_params_of_other_stages_may_change(project: Path):
    (project / "sleep_ingest").touch()
    with start_in(project, "dvc", "repro", "ingest") as run:
        read_until(run, "ingest sleeps")
        change_params(project, refine__crf__iterations=5)
        (project / "sleep_ingest").unlink()
        run.communicate()
    assert run.returncode == 0
    assert "ingest" not in run_dvc(project, "status", "ingest")


def test_inputs_are_resolved_as_dvc_resolves_them(project: Path):
    values = read_params(project / "params.yaml").model_dump()
    with open_repo(project) as repo:
        for stage in repo.index.stages:
            name, _, key = stage.name.partition("@")
            deps, params = list_inputs(project, values, name, key or None)
            theirs = [dep for dep in stage.deps if not getattr(dep, "params", None)]
            assert {os.path.realpath(project / dep) for dep in deps} == {
                os.path.realpath(dep.fs_path) for dep in theirs
            }
            assert set(params) == {param for dep in stage.deps for param in getattr(dep, "params", [])}
