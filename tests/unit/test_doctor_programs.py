from __future__ import annotations

import contextlib
import http.server
import json
import os
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
from doctor_ward import build_clone, only, see, set_params
from tiny_data import hash_tree

from tasks import (
    doctor_packages,
    doctor_programs,
    doctor_servers,
)
from tasks.doctor import Finding

PROJECT = Path(__file__).resolve().parents[2]


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return build_clone(tmp_path, monkeypatch)


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
