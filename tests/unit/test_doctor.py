from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ruamel.yaml import YAML
from tiny_data import hash_tree
from typer.testing import CliRunner

from flows.cli import app
from tasks import (
    doctor,
    doctor_packages,
    doctor_places,
    doctor_programs,
    doctor_servers,
    doctor_versioning,
)
from tasks.doctor import Finding, Patient, count_states, examine, guard, read_params_anyhow
from tasks.locking import hold_workspace

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A fresh clone, in a home where nothing is set up."""
    root, home = tmp_path / "work", tmp_path / "home"
    home.mkdir()
    root.mkdir()
    for name in ("params.yaml", "dvc.yaml"):
        shutil.copy(PROJECT / name, root)
    (root / ".dvc").mkdir()
    shutil.copy(PROJECT / ".dvc" / "config", root / ".dvc")
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    for name in (
        *("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_HOME", "PREFECT_PROFILES_PATH", "XDG_CONFIG_HOME"),
        *("MLFLOW_TRACKING_URI", "NUMBA_CACHE_DIR", "TORCH_HOME", "HF_HOME", "XDG_CACHE_HOME"),
        *("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"),
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home / ".gitconfig"))
    return root


def see(root: Path, **environ: str) -> Patient:
    params, _ = read_params_anyhow(root)
    return Patient(root, params, {**os.environ, **environ})


def set_params(root: Path, **sections: dict[str, Any]) -> None:
    yaml = YAML()
    values = yaml.load(root / "params.yaml")
    for section, changes in sections.items():
        values[section].update(changes)
    yaml.dump(values, root / "params.yaml")


def only(findings: Any, state: str) -> Finding:
    """The one finding there is, which must be of a state, with a remedy unless all is well."""
    listed = list(findings)
    assert len(listed) == 1, listed
    assert listed[0].state == state, listed
    assert bool(listed[0].remedy) == (state != "ok"), listed
    return listed[0]


# -- as a whole --------------------------------------------------------------------------------


def test_a_fresh_clone_is_examined_and_nothing_is_made(workspace: Path, tmp_path: Path):
    before = hash_tree(tmp_path)
    result = CliRunner().invoke(app, ["doctor", "--json", "--root", str(workspace)])
    said = json.loads(result.stdout)
    assert result.exit_code == (1 if said["counts"]["problem"] else 0)
    by_name = {finding["about"]: finding for finding in said["findings"]}
    for name in ("torch", "torchvision", "pydensecrf", "numba", "packages", "params.yaml", "DVC", "Prefect"):
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


@pytest.mark.parametrize("broken", ["torch", "numba", "pydensecrf", "psutil", "zarr", "dvc", "prefect"])
def test_a_broken_package_stops_nothing(workspace: Path, broken: str):
    done = run_with_broken(workspace, broken, "flows.cli", "doctor", "--json", "--root", str(workspace))
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    findings = [Finding(**finding) for finding in json.loads(done.stdout)["findings"]]
    told = [finding for finding in findings if finding.state == "problem" and "libbroken" in finding.text]
    named = {"psutil": "machine"}
    if broken in ("zarr", "dvc", "prefect"):  # never imported here
        assert told == []
    else:
        assert [finding.about for finding in told][:1] == [named.get(broken, broken)]
    assert {"disk", "Prefect", "MLflow", "DVC", "git"} <= {finding.about for finding in findings}


@pytest.mark.parametrize("broken", ["pydantic", "typer", "rich"])
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


# -- packages ----------------------------------------------------------------------------------


def give_versions(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    """Let some packages be of other versions than they are, or be missing."""
    real = metadata.version

    def version(name: str) -> str:
        found = versions[name] if name in versions else real(name)
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(metadata, "version", version)


def test_packages_are_as_demanded(workspace: Path):
    assert {finding.state for finding in doctor_packages.check_packages(see(workspace))} == {"ok"}


@pytest.mark.parametrize(
    ("name", "version", "text", "remedy"),
    [
        ("zarr", "2.18.0", "2.18.0, but <4,>=3.1 is demanded", "pip install 'zarr>=3.1,<4'"),
        ("fastapi", "0.151.0", "newer ones break the server of Prefect 3.8", "pip install 'fastapi<0.151'"),
        ("timm", None, "not installed", "pip install 'timm>=1.0.15'"),
    ],
)
def test_a_wrong_version_is_told(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, name: str, version: str | None, text: str, remedy: str
):
    give_versions(monkeypatch, **{name: version})
    finding = only(doctor_packages.check_packages(see(workspace)), "problem")
    assert finding.about == name
    assert text in finding.text
    assert finding.remedy == remedy


@pytest.mark.parametrize(
    ("torch", "torchvision", "fits"),
    [
        ("2.11.0+cpu", "0.26.0+cpu", True),
        ("2.14.1", "0.29.2", True),
        ("2.14.0", "0.28.1", False),
        ("2.11.0", "0.27.0", False),
        ("3.0.0", "1.0.0", True),  # of those nothing is known
    ],
)
def test_torchvision_must_belong_to_torch(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, torch: str, torchvision: str, fits: bool
):
    give_versions(monkeypatch, torch=torch, torchvision=torchvision)
    told = [f for f in doctor_packages.check_packages(see(workspace)) if f.state == "problem"]
    assert ("operator torchvision::nms does not exist" in told[0].text) if not fits else told == []


def test_without_a_clone_the_installed_package_says_what_it_demands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(doctor_packages, "_PROJECT", tmp_path)
    assert any(demand.startswith("torch>=") for demand in doctor_packages.list_demands())


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10, 1), "problem"), ((3, 12, 0), "ok"), ((3, 14, 0), "warning")]
)
def test_python_is_judged(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...], state: str
):
    monkeypatch.setattr(doctor_packages, "sys", SimpleNamespace(version_info=version, executable="python"))
    only(doctor_packages.check_python(see(workspace)), state)


def test_weights_are_looked_for(workspace: Path):
    def look() -> list[Finding]:
        return list(doctor_packages.check_weights(see(workspace)))

    assert "19 MB" in only(look(), "ok").text
    set_params(workspace, backbone={"name": "vgg16"})
    assert "528 MB" in only(look(), "warning").text
    cache = Path(os.environ["HOME"], ".cache")
    (cache / "torch" / "hub" / "checkpoints").mkdir(parents=True)
    (cache / "torch" / "hub" / "checkpoints" / "vgg16-397923af.pth").touch()
    only(look(), "ok")
    set_params(workspace, backbone={"name": "timm:resnet18.a1_in1k"})
    only(look(), "warning")
    (cache / "huggingface" / "hub" / "models--timm--resnet18.a1_in1k").mkdir(parents=True)
    only(look(), "ok")
    set_params(workspace, backbone={"weights": "mine.pth"})
    assert "mine.pth` not found" in only(look(), "problem").text
    (workspace / "mine.pth").touch()
    only(look(), "ok")


# -- programs ----------------------------------------------------------------------------------


def run_program(code: str) -> dict[str, subprocess.Popen[str]]:
    program = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return {"torchvision": program}


@pytest.mark.parametrize(
    ("code", "text"),
    [
        (
            "raise RuntimeError('operator torchvision::nms does not exist')",
            "RuntimeError: operator torchvision::nms does not exist",
        ),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "crashes when it is loaded (SIGSEGV)"),
        ("raise SystemExit(3)", "ends with status 3"),
    ],
)
def test_a_program_that_fails_is_told(workspace: Path, code: str, text: str):
    findings = list(doctor_programs.check_programs(see(workspace), run_program(code)))
    assert (findings[0].about, findings[0].state, findings[0].text) == ("torchvision", "problem", text)
    assert "torch torchvision" in findings[0].remedy


def test_a_program_that_hangs_is_ended(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor_programs, "_SECONDS", 0.2)
    programs = run_program("import time; time.sleep(600)")
    findings = list(doctor_programs.check_programs(see(workspace), programs))
    assert "did not answer" in findings[0].text
    assert programs["torchvision"].poll() is not None


@pytest.mark.parametrize(
    ("found", "driver", "device", "state", "text"),
    [
        ({}, None, "auto", "ok", "none: the CPU is used"),
        ({}, None, "cuda", "problem", "compute.device to cuda, but torch sees no GPU"),
        ({"cuda": None}, "NVIDIA driver 550", "auto", "warning", "torch is made for the CPU alone"),
        ({}, "NVIDIA driver 550", "auto", "warning", "no device is passed to this system"),
        (
            {"available": True, "devices": [["H100", 2**35, 2**36]]},
            "x",
            "cuda",
            "ok",
            "H100, 32.0 of 64.0 GiB free",
        ),
        (
            {"available": True, "devices": [["H100", None, "out of memory"]]},
            "x",
            "auto",
            "problem",
            "out of memory",
        ),
    ],
)
def test_a_gpu_is_judged(
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    found: dict[str, Any],
    driver: str | None,
    device: str,
    state: str,
    text: str,
):
    set_params(workspace, compute={"device": device})
    monkeypatch.setattr(doctor_programs, "find_driver", lambda: driver)
    monkeypatch.setattr(doctor_programs, "_DEVICE", Path("/dev/no such device"))
    told = {"available": False, "cuda": "13.0", "devices": [], "said": [], **found}
    assert text in only(doctor_programs.check_gpu(see(workspace), told), state).text


def test_compiled_code_needs_a_place(workspace: Path, monkeypatch: pytest.MonkeyPatch):
    assert list(doctor_programs.check_numba_cache(see(workspace))) == []
    monkeypatch.setattr(os, "access", lambda *_: False)
    finding = only(doctor_programs.check_numba_cache(see(workspace, NUMBA_CACHE_DIR="/nowhere")), "problem")
    assert "(tried /nowhere)" in finding.text


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


# -- servers -----------------------------------------------------------------------------------


class Answers(http.server.BaseHTTPRequestHandler):
    """Stands for a server: healthy, of a version that the test sets."""

    version = "3.8.0"

    def do_GET(self) -> None:
        found = self.path in ("/api/health", "/health", "/api/admin/version")
        self.send_response(200 if found else 403)
        self.end_headers()
        if found:
            self.wfile.write(json.dumps(self.version).encode())

    def log_message(self, *arguments: Any) -> None:
        """Keep still."""


@pytest.fixture
def server() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as serving:
        thread = threading.Thread(target=serving.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{serving.server_port}"
        serving.shutdown()
        thread.join()


def find_closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_prefect_is_asked(workspace: Path, server: str, monkeypatch: pytest.MonkeyPatch):
    assert "no server is named" in only(doctor_servers.check_prefect(see(workspace)), "ok").text
    give_versions(monkeypatch, prefect="3.8.5")
    only(doctor_servers.check_prefect(see(workspace, PREFECT_API_URL=f"{server}/api")), "ok")
    give_versions(monkeypatch, prefect="3.9.0")
    finding = only(doctor_servers.check_prefect(see(workspace, PREFECT_API_URL=f"{server}/api")), "warning")
    assert "of version 3.8.0, this client 3.9.0" in finding.text
    dead = f"http://me:secret@127.0.0.1:{find_closed_port()}/api"
    finding = only(doctor_servers.check_prefect(see(workspace, PREFECT_API_URL=dead)), "problem")
    assert "which PREFECT_API_URL names" in finding.text
    assert "secret" not in finding.text


def test_the_active_profile_of_prefect_is_read(workspace: Path):
    home = Path(os.environ["HOME"], ".prefect")
    home.mkdir()
    place = home / "profiles.toml"
    place.write_text('active = "far"\n[profiles.far]\nPREFECT_API_URL = "http://far/api/"\n[profiles.near]\n')
    assert doctor_servers.find_prefect_url(see(workspace)) == ("http://far/api", f"profile far in {place}")
    assert doctor_servers.find_prefect_url(see(workspace, PREFECT_PROFILE="near")) == (None, "")


def test_mlflow_is_asked(workspace: Path, server: str):
    def look(**environ: str) -> list[Finding]:
        return list(doctor_servers.check_mlflow(see(workspace, **environ)))

    assert "made by the first run" in only(look(), "ok").text
    only(look(MLFLOW_TRACKING_URI=server), "ok")
    only(look(MLFLOW_TRACKING_URI=f"{server}/elsewhere"), "ok")  # a refusal is an answer
    dead = f"http://127.0.0.1:{find_closed_port()}"
    assert "Connection refused" in only(look(MLFLOW_TRACKING_URI=dead), "problem").text
    assert "MLflow refuses" in only(look(MLFLOW_TRACKING_URI="./mlruns"), "problem").text
    assert "not asked" in only(look(MLFLOW_TRACKING_URI="postgresql://me:pw@db/mlflow"), "ok").text
    assert not (workspace / "mlflow.db").exists()


def test_mlflows_database_is_opened(workspace: Path):
    place = workspace / "mlflow.db"
    with contextlib.closing(sqlite3.connect(place)) as database:  # as far as it is looked at
        database.execute("create table runs (run_uuid varchar(32))")
        database.commit()
    before = hash_tree(workspace)
    assert only(doctor_servers.check_mlflow(see(workspace)), "ok").text == "mlflow.db, 0 runs"
    assert hash_tree(workspace) == before
    place.write_text("no database")
    assert "file is not a database" in only(doctor_servers.check_mlflow(see(workspace)), "problem").text
    place.unlink()
    uri = f"sqlite:///{workspace / 'other.db'}"
    assert "other.db" in only(doctor_servers.check_mlflow(see(workspace, MLFLOW_TRACKING_URI=uri)), "ok").text


def test_ports_are_looked_at(workspace: Path, server: str, monkeypatch: pytest.MonkeyPatch):
    port = int(server.rpartition(":")[2])
    taken = ("Prefect", "/api/health", "--port"), ("MLflow", "/nothing", "--mlflow-port")
    for about, state in zip(taken, ("ok", "warning"), strict=True):
        monkeypatch.setattr(doctor_servers, "_PORTS", {port: about})
        only(doctor_servers.check_ports(see(workspace)), state)
    monkeypatch.setattr(doctor_servers, "_PORTS", {find_closed_port(): taken[0]})
    assert "free for Prefect" in only(doctor_servers.check_ports(see(workspace)), "ok").text
