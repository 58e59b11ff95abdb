from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from doctor_ward import build_clone, only, see, set_params
from tiny_data import hash_tree
from typer.testing import CliRunner

from flows.cli import app
from tasks import (
    doctor,
    doctor_places,
    doctor_versioning,
)
from tasks.doctor import Finding, Patient, count_states, examine, guard, read_params_anyhow
from tasks.locking import hold_workspace

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return build_clone(tmp_path, monkeypatch)


# -- as a whole --------------------------------------------------------------------------------


def test_a_fresh_clone_is_examined_and_nothing_is_made(workspace: Path, tmp_path: Path):
    before = hash_tree(tmp_path)
    result = CliRunner().invoke(app, ["doctor", "--json", "--root", str(workspace)])
    said = json.loads(result.stdout)
    assert result.exit_code == (1 if said["counts"]["problem"] else 0)
    by_name = {finding["about"]: finding for finding in said["findings"]}
    for name in (
        "torch",
        "torchvision",
        "pydensecrf",
        "numba",
        "OpenVINO",
        "packages",
        "params.yaml",
        "DVC",
        "Prefect",
    ):
        assert by_name[name]["state"] == "ok", by_name[name]
    assert by_name["git"]["state"] == "warning"  # it knows nobody
    assert all(f["remedy"] for f in said["findings"] if f["state"] != "ok")
    assert said["counts"] == count_states(Finding(**finding) for finding in said["findings"])
    assert hash_tree(tmp_path) == before


@pytest.mark.parametrize("state", ["warning", "problem"])
def test_only_a_problem_is_an_error(monkeypatch: pytest.MonkeyPatch, state: Any):
    finding = Finding("cellar", state, "is [full] of water", "pump")
    monkeypatch.setattr(doctor, "examine", lambda root: iter([finding]))
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == (1 if state == "problem" else 0)
    assert f"{state:8} cellar       is [full] of water\n" in result.stdout
    assert "-> pump\n" in result.stdout


def test_no_project_is_one_problem_among_findings(workspace: Path):
    findings = list(examine(workspace.parent / "home"))
    wrong = {finding.about: finding for finding in findings if finding.state == "problem"}
    assert set(wrong) == {"params.yaml", "DVC"}
    assert "--root" in wrong["params.yaml"].remedy


def test_a_check_that_fails_itself_is_a_finding(tmp_path: Path):
    def fail(patient: Patient) -> Iterator[Finding]:
        yield Finding("disk", "ok", "fine so far")
        raise RuntimeError("first\nlast")

    findings = list(guard("disk", fail, Patient(tmp_path)))
    assert [finding.state for finding in findings] == ["ok", "problem"]
    assert findings[1].text == "could not be looked at: RuntimeError: last"


@pytest.mark.slow
@pytest.mark.parametrize(
    "broken", ["torch", "numba", "openvino", "pydensecrf", "psutil", "zarr", "dvc", "prefect"]
)
def test_a_broken_package_stops_nothing(workspace: Path, broken: str):
    done = run_with_broken(workspace, broken, "flows.cli", "doctor", "--json", "--root", str(workspace))
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    findings = [Finding(**finding) for finding in json.loads(done.stdout)["findings"]]
    told = [finding for finding in findings if finding.state == "problem" and "libbroken" in finding.text]
    named = {"psutil": "machine", "openvino": "OpenVINO"}
    if broken in ("zarr", "dvc", "prefect"):  # never imported here
        assert told == []
    else:
        assert [finding.about for finding in told][:1] == [named.get(broken, broken)]
    assert {"disk", "Prefect", "MLflow", "DVC", "git"} <= {finding.about for finding in findings}


@pytest.mark.parametrize(
    "broken",
    [
        "pydantic",
        pytest.param("typer", marks=pytest.mark.slow),
        pytest.param("rich", marks=pytest.mark.slow),
    ],
)
def test_there_is_a_way_where_the_command_line_is_broken(workspace: Path, broken: str):
    done = run_with_broken(workspace, broken, "tasks.doctor")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert any(line.startswith("ok       git ") for line in lines)
    told = [line for line in lines if "libbroken" in line]
    assert bool(told) == (broken != "typer")  # only the command line needs that


def run_with_broken(
    folder: Path, broken: str, module: str, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run a module in a process in which importing a package fails, and in its children too."""
    fake = folder.parent / "fake"
    (fake / broken).mkdir(parents=True)
    (fake / broken / "__init__.py").write_text("raise ImportError('no such symbol in libbroken.so')\n")
    if broken != "torch":  # what takes seconds and is not the point
        (fake / "torch.py").write_text("raise ImportError('left out')\n")
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(fake), str(PROJECT)])},
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )


# -- places ------------------------------------------------------------------------------------


def test_a_wrong_line_of_params_is_told(workspace: Path):
    set_params(workspace, train={"lr": 99.0}, cams={"flip": "yes"})
    params, findings = read_params_anyhow(workspace)
    assert params is None
    assert [finding.state for finding in findings] == ["problem", "problem"]
    assert "`train.lr` must be less than or equal to 10, got 99.0" in {finding.text for finding in findings}
    assert list(doctor_places.check_source(see(workspace))) == []


def test_the_source_is_looked_for(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    def look() -> list[Finding]:
        return list(doctor_places.check_source(see(workspace)))

    only(look(), "ok")
    set_params(workspace, source={"kind": "folder", "path": "birds"})
    assert "birds` not found" in only(look(), "problem").text
    (workspace / "birds").mkdir()
    assert "is empty" in only(look(), "problem").text
    (workspace / "birds" / "labels.csv").touch()
    only(look(), "ok")
    monkeypatch.setattr(os, "access", lambda place, how: False)
    assert "may not be read" in only(look(), "problem").text


def test_urls_of_pictures_and_stores_are_reached_for(workspace: Path):
    def look(**params: dict[str, str]) -> list[tuple[str, str, str]]:
        set_params(workspace, **params)
        found = [*doctor_places.check_source(see(workspace)), *doctor_places.check_stores(see(workspace))]
        return [(finding.about, finding.state, finding.text) for finding in found]

    assert [check for check, *_ in look()] == ["source"], "no stores elsewhere, nothing to say"
    source, stores = look(
        source={"kind": "folder", "path": "memory://doctor/none"}, compute={"stores": "memory://doctor"}
    )
    assert source == ("source", "problem", "`memory://doctor/none` not found")
    assert stores == ("stores", "ok", "memory://doctor: nothing there yet")
    source, stores = look(
        source={"kind": "folder", "path": "nowhere://birds"}, compute={"stores": "nowhere://stores"}
    )
    for _, state, text in (source, stores):
        assert state == "problem"
        assert "cannot be used: Unsupported filesystem: 'nowhere'" in text


def test_who_works_here_is_told(workspace: Path):
    only(doctor_places.check_locks(see(workspace)), "ok")
    assert not (workspace / ".work").exists()
    with hold_workspace(workspace, "dsrg run"):
        finding = only(doctor_places.check_locks(see(workspace)), "warning")
    assert "in use by `dsrg run` (process" in finding.text


def test_what_may_not_be_written_is_told(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    only(doctor_places.check_permissions(see(workspace)), "ok")
    (workspace / "data").mkdir()
    monkeypatch.setattr(os, "access", lambda place, how: Path(place).name not in ("data", "params.yaml"))
    assert only(doctor_places.check_permissions(see(workspace)), "problem").text == (
        "may not be written: params.yaml, data"
    )


@pytest.mark.parametrize(
    ("free", "files", "state", "text"),
    [
        (100 * 2**30, 10**6, "ok", "100.0 GiB free"),
        (2 * 2**30, 10**6, "warning", "2.0 GiB free, a run may need 3.0"),
        (2**28, 10**6, "problem", "only 0.2 GiB free"),
        (100 * 2**30, 12, "problem", "room for 12 more files only"),
    ],
)
def test_a_full_disk_is_told(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, free: int, files: int, state: str, text: str
):
    disk = SimpleNamespace(f_bavail=free // 512, f_frsize=512, f_files=10**7, f_favail=files)
    monkeypatch.setattr(os, "statvfs", lambda place: disk)
    finding = next(iter(doctor_places.check_disk(see(workspace))))
    assert (finding.state, text in finding.text) == (state, True), finding


def test_disk_is_held_against_what_data_holds(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_places, "measure", lambda place: 40 * 2**30)
    disk = SimpleNamespace(f_bavail=50 * 2**30, f_frsize=1, f_files=0, f_favail=0)
    monkeypatch.setattr(os, "statvfs", lambda place: disk)
    assert "a run may need 80.0" in next(iter(doctor_places.check_disk(see(workspace)))).text


def test_data_are_measured(tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "c").write_bytes(b"12345")
    (tmp_path / "d").write_bytes(b"123")
    assert doctor_places.measure(tmp_path) == 8
    assert doctor_places.measure(tmp_path / "nowhere") == 0


def test_little_memory_is_told(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_places, "measure_memory", lambda: 2**30)
    finding = next(iter(doctor_places.check_machine(see(workspace))))
    assert finding.state == "warning"
    assert "1.0 GiB of memory free" in finding.text
    monkeypatch.undo()
    assert doctor_places.measure_memory() > 2**20


# -- git and DVC -------------------------------------------------------------------------------


def test_git_and_who_commits(workspace: Path, tmp_path: Path):
    (repository, nobody) = doctor_versioning.check_git(see(workspace))
    assert (repository.state, nobody.state) == ("ok", "warning")
    assert str(workspace) in repository.text
    Path(os.environ["GIT_CONFIG_GLOBAL"]).write_text("[user]\nname = A\nemail = a@b\n")
    only(doctor_versioning.check_git(see(workspace)), "ok")
    shutil.rmtree(workspace / ".git")
    ceiling = {"GIT_CEILING_DIRECTORIES": str(tmp_path)}
    assert "no repository" in only(doctor_versioning.check_git(see(workspace, **ceiling)), "warning").text
    assert (
        "not found" in only(doctor_versioning.check_git(see(workspace, PATH=str(tmp_path))), "warning").text
    )


def test_dvc_settings_are_those_that_dvc_reads(workspace: Path, tmp_path: Path):
    """DVC's own word against what is read from its files here."""
    from dvc.config import Config

    home = Path(os.environ["HOME"], ".config", "dvc")
    home.mkdir(parents=True)
    (home / "config").write_text("[cache]\n    dir = /srv/all\n    type = symlink\n")
    (workspace / ".dvc" / "config.local").write_text(
        "[cache]\n    type = hardlink,copy\n    dir = ../../near\n"
    )
    patient = see(workspace)
    theirs = Config(str(workspace / ".dvc"), validate=True)["cache"]
    assert doctor_versioning.read_config(patient)["cache.type"].split(",") == theirs["type"]
    assert doctor_versioning.locate_cache(patient).resolve() == tmp_path / "near"
    assert doctor_versioning.read_config(patient)["core.analytics"] == "false"
    (workspace / ".dvc" / "config.local").unlink()
    assert doctor_versioning.locate_cache(patient) == Path("/srv/all")


def test_dvc_cache_is_judged(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    only(doctor_versioning.check_dvc(see(workspace)), "ok")
    (workspace / ".dvc" / "config.local").write_text("[cache]\n    type = hardlink\n    dir = cache\n")
    only(doctor_versioning.check_dvc(see(workspace)), "ok")
    monkeypatch.setattr(doctor_versioning, "_find_device", lambda place: place.name == "cache")
    assert "does not reach another disk" in only(doctor_versioning.check_dvc(see(workspace)), "problem").text
    monkeypatch.setattr(os, "access", lambda place, how: False)
    assert "may not be written" in only(doctor_versioning.check_dvc(see(workspace)), "problem").text
    shutil.rmtree(workspace / ".dvc")
    assert "no .dvc here" in only(doctor_versioning.check_dvc(see(workspace)), "problem").text


def test_another_python_on_the_path_is_told(workspace: Path, tmp_path: Path):
    here = str(Path(sys.executable).parent)
    only(doctor_versioning.check_path(see(workspace, PATH=f"{here}{os.pathsep}/usr/bin")), "ok")
    other = tmp_path / "python"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    finding = only(doctor_versioning.check_path(see(workspace, PATH=str(tmp_path))), "warning")
    assert f"`python` is {other}" in finding.text
    assert here in finding.remedy
