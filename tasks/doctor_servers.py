"""Prefect's and MLflow's servers, asked over HTTP in seconds, and the ports that they would be given."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
import tomllib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.parse import unquote, urlsplit
from urllib.request import urlopen

from tasks.doctor import Finding, Patient
from tasks.doctor_packages import find_version
from tasks.doctor_programs import may_write

_SECONDS = 3.0
_HOST = "127.0.0.1"
_PORTS = {4200: ("Prefect", "/api/health", "--port"), 5000: ("MLflow", "/health", "--mlflow-port")}


def check_prefect(patient: Patient) -> Iterator[Finding]:
    """Check that Prefect's server answers, if one is named, and that it is as new as the client."""
    url, where = find_prefect_url(patient)
    if url is None:
        yield Finding("Prefect", "ok", "no server is named: each run starts one of its own")
        return
    shown = hide_login(url)
    reason = ask(f"{url}/health")
    if reason is not None:
        remedy = f"start it (prefect server start), or take {where} away"
        yield Finding("Prefect", "problem", f"no answer from {shown}, which {where} names: {reason}", remedy)
        return
    server, client = _read_version(f"{url}/admin/version"), find_version("prefect")
    if server and client and server.split(".")[:2] != client.split(".")[:2]:
        remedy = f"pip install 'prefect=={server}', or bring the server to {client}"
        yield Finding("Prefect", "warning", f"{shown} is of version {server}, this client {client}", remedy)
    else:
        yield Finding("Prefect", "ok", f"{shown} answers" + (f", version {server}" if server else ""))


def find_prefect_url(patient: Patient) -> tuple[str | None, str]:
    """Find the address of Prefect's API, and what names it: the environment or the active profile."""
    named = patient.environ.get("PREFECT_API_URL")
    if named:
        return named.rstrip("/"), "PREFECT_API_URL"
    home = Path(patient.environ.get("PREFECT_HOME") or Path(patient.environ.get("HOME", "/")) / ".prefect")
    place = Path(patient.environ.get("PREFECT_PROFILES_PATH") or home / "profiles.toml")
    try:
        values = tomllib.loads(place.read_text(encoding="utf-8"))
    except OSError:
        return None, ""
    name = patient.environ.get("PREFECT_PROFILE") or values.get("active")
    url = values.get("profiles", {}).get(name, {}).get("PREFECT_API_URL")
    return (str(url).rstrip("/"), f"profile {name} in {place}") if url else (None, "")


def check_mlflow(patient: Patient) -> Iterator[Finding]:
    """Check that runs can be tracked: the server answers, or the database can be opened."""
    uri = patient.environ.get("MLFLOW_TRACKING_URI")
    if uri is None or not uri:
        yield _check_database(patient, patient.root / "mlflow.db")
    elif uri.startswith(("http:", "https:")):
        reason = ask(f"{uri.rstrip('/')}/health")
        if reason is None:
            yield Finding("MLflow", "ok", f"{hide_login(uri)} answers")
        else:
            text = f"no answer from {hide_login(uri)}, which MLFLOW_TRACKING_URI names: {reason}"
            yield Finding("MLflow", "problem", text, "start it, or unset MLFLOW_TRACKING_URI")
    elif uri.startswith("sqlite:///"):
        yield _check_database(patient, patient.root / unquote(uri.removeprefix("sqlite:///")))
    elif re.match(r"[\w+]{2,}://", uri) and not uri.startswith("file:"):
        yield Finding("MLflow", "ok", f"{hide_login(uri)}, not asked")
    else:
        remedy = "export MLFLOW_TRACKING_URI=sqlite:////absolute/path/mlflow.db"
        yield Finding("MLflow", "problem", f"a folder ({uri}) keeps no runs any more: MLflow refuses", remedy)


def _check_database(patient: Patient, place: Path) -> Finding:
    shown = patient.show(place)
    if not place.exists():
        if may_write(place.parent):
            return Finding("MLflow", "ok", f"{shown}, made by the first run")
        return Finding("MLflow", "problem", f"{shown} cannot be made", "see permissions")
    if not may_write(place):
        return Finding("MLflow", "problem", f"{shown} may not be written", f"chown $USER '{place}'")
    busy = any(place.with_name(place.name + end).exists() for end in ("-journal", "-wal"))
    if busy:  # somebody writes: only a look without any lock is sure to leave nothing behind
        return Finding("MLflow", "ok", f"{shown}, in use")
    try:
        with sqlite3.connect(f"{place.as_uri()}?mode=ro&immutable=1", uri=True) as database:
            count = database.execute("select count(*) from runs").fetchone()[0]
        database.close()
    except sqlite3.Error as error:
        return Finding("MLflow", "problem", f"{shown}: {error}", "move it away: the next run makes a new one")
    return Finding("MLflow", "ok", f"{shown}, {count} runs")


def check_ports(patient: Patient) -> Iterator[Finding]:
    """Check that the ports of ``dsrg serve`` are free, or held by the right server."""
    for port, (name, health, option) in _PORTS.items():
        about = f"port {port}"
        if not is_taken(port):
            yield Finding(about, "ok", f"free for {name}")
        elif ask(f"http://{_HOST}:{port}{health}", refusals_count=False) is None:
            yield Finding(about, "ok", f"{name} answers")
        else:
            text = f"held by a program that is not {name}"
            yield Finding(about, "warning", text, f"dsrg serve {option} {port + 1}")


def is_taken(port: int) -> bool:
    """Tell whether anything listens at a port of this machine."""
    with socket.socket() as probe:
        probe.settimeout(_SECONDS)
        return probe.connect_ex((_HOST, port)) == 0


def ask(url: str, *, refusals_count: bool = True) -> str | None:
    """Ask a server for a sign of life; give the reason if none comes.

    Parameters
    ----------
    url : str
    refusals_count : bool
        Whether a refusal, such as for want of a login, is a sign of life.
    """
    try:
        urlopen(url, timeout=_SECONDS).close()
    except HTTPError as error:
        return None if refusals_count else f"status {error.code}"
    except URLError as error:
        return str(error.reason)
    except (OSError, ValueError, HTTPException) as error:
        return str(error) or type(error).__name__
    return None


def _read_version(url: str) -> str | None:
    try:
        with urlopen(url, timeout=_SECONDS) as response:
            version = json.loads(response.read(1000))
    except (OSError, ValueError, HTTPException):
        return None
    return version if isinstance(version, str) else None


def hide_login(url: str) -> str:
    """Hide user and password in an address.

    Examples
    --------
    >>> hide_login("https://me:secret@example.org/api")
    'https://example.org/api'
    """
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
