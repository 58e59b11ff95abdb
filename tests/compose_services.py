"""The services of docker/compose.yaml as plain processes: its commands, environments and health checks.

No container runs here. Names of hosts and the ports behind them become addresses on loopback; Postgres is
Debian's, and the object store is moto's, not the one that the file names.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from served_project import find_free_port

PROJECT = Path(__file__).resolve().parent.parent
COMPOSE = PROJECT / "docker" / "compose.yaml"
PORTS = {"postgres": 5432, "objects": 8333, "prefect": 4200, "mlflow": 5000, "worker-cpu": 8080}
BINARIES = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)  # Debian's
_VARIABLE = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def read_compose() -> dict[str, Any]:
    """Read the file, anchors resolved."""
    found: dict[str, Any] = YAML(typ="safe").load(COMPOSE.read_text())
    return found


def read_example() -> dict[str, str]:
    """Read what docker/.env.example sets."""
    lines = (PROJECT / "docker" / ".env.example").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def fill_in(text: str, variables: Mapping[str, str]) -> str:
    """Fill variables in as compose does; one that must be set and is not raises KeyError."""

    def look_up(match: re.Match[str]) -> str:
        name, kind, rest = match[1], match[2], match[3]
        value = variables.get(name, "")
        if not value and kind == "?":
            raise KeyError(f"{name}: {rest}")
        return value or (rest if kind == "-" else "")

    return _VARIABLE.sub(look_up, text)


class Services:
    """Starts services of the file one by one, and ends them all.

    Parameters
    ----------
    folder : Path
        For logs and databases.
    project : Path
        Stands for ``/project``.
    variables : mapping
        What ``docker/.env`` would hold.
    """

    def __init__(self, folder: Path, project: Path, variables: Mapping[str, str]) -> None:
        self.folder, self.project, self.variables = folder, project, variables
        self.compose = read_compose()["services"]
        self.ports = {name: find_free_port() for name in PORTS}
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Services:
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._running):
            process.terminate()
        for process in reversed(self._running):
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def place(self, text: str, service: str) -> str:
        """Fill in variables, and put names and ports of the file where they are here."""
        text = fill_in(str(text), self.variables)
        for name, port in PORTS.items():
            text = text.replace(f"{name}:{port}", f"127.0.0.1:{self.ports[name]}")
            if name == service:
                text = re.sub(rf"\b(127\.0\.0\.1:|localhost:){port}\b", rf"\g<1>{self.ports[name]}", text)
                text = re.sub(rf"^(--port=)?{port}$", rf"\g<1>{self.ports[name]}", text)
        return text.replace("0.0.0.0", "127.0.0.1").replace("/project", str(self.project))

    def environment(self, service: str) -> dict[str, str]:
        """The environment of a service, and what only this machine needs."""
        own = self.compose[service].get("environment", {})
        kept = {name: os.environ[name] for name in ("HOME", "LANG", "TMPDIR") if name in os.environ}
        return {
            **kept,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(self.project),  # as the image sets it
            "DO_NOT_TRACK": "true",
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "PREFECT_HOME": str(self.folder / f"{service}-home"),
            "PREFECT_WORKER_WEBSERVER_PORT": str(self.ports["worker-cpu"]),
            **{name: self.place(value, service) for name, value in own.items()},
        }

    def command(self, service: str) -> list[str]:
        return [self.place(word, service) for word in self.compose[service]["command"]]

    def start(self, service: str, *, timeout: float = 240.0) -> None:
        """Start a service by its own command and wait until its own health check passes."""
        self.spawn(service, self.command(service), self.environment(service))
        test = [self.place(word, service) for word in self.compose[service]["healthcheck"]["test"]]
        assert test[0] == "CMD"
        self.wait_healthy(service, test[1:], timeout=timeout)

    def run(self, service: str) -> str:
        """Run a service that does one thing and ends; return what it said."""
        done = subprocess.run(
            self.command(service),
            cwd=self.project,
            env=self.environment(service),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def spawn(self, name: str, command: list[str], environment: Mapping[str, str], **settings: Any) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                **{"cwd": self.project, **settings},
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append(process)

    def wait_healthy(self, name: str, test: list[str], *, timeout: float = 60.0) -> None:
        until = time.monotonic() + timeout
        while subprocess.run(test, env=self.environment_of_tests(), capture_output=True).returncode:
            log = (self.folder / f"{name}.log").read_text(errors="replace")[-3000:]
            assert self._running[-1].poll() is None, log
            assert time.monotonic() < until, log
            time.sleep(0.5)

    def environment_of_tests(self) -> dict[str, str]:
        paths = [str(Path(sys.executable).parent), str(BINARIES), os.environ["PATH"]]
        return {**os.environ, "PATH": os.pathsep.join(paths)}

    def start_postgres(self) -> None:
        """Start Debian's Postgres as the image would, with its databases made by docker/make-databases.sh."""
        assert BINARIES is not None
        port, data = str(self.ports["postgres"]), self.folder / "postgres"
        own = self.environment("postgres")
        secret = self.folder / "secret"
        secret.write_text(own["POSTGRES_PASSWORD"])
        who: dict[str, Any] = {}
        if os.getuid() == 0:  # which Postgres refuses to run as
            who = {"user": "postgres", "group": "postgres"}
            for place in (self.folder, *self.folder.parents):
                if place.stat().st_mode & 0o001 == 0:
                    place.chmod(place.stat().st_mode | 0o011)
            data.mkdir()
            for place in (data, secret):
                shutil.chown(place, "postgres", "postgres")
        made = subprocess.run(
            [
                f"{BINARIES}/initdb",
                "--auth=scram-sha-256",
                "--username=postgres",
                f"--pwfile={secret}",
                str(data),
            ],
            capture_output=True,
            text=True,
            cwd="/",
            **who,
        )
        assert made.returncode == 0, made.stderr
        listen = ["-c", "listen_addresses=127.0.0.1", "-c", f"unix_socket_directories={data}", "-p", port]
        self.spawn("postgres", [f"{BINARIES}/postgres", "-D", str(data), *listen], own, cwd="/", **who)
        test = self.compose["postgres"]["healthcheck"]["test"]
        self.wait_healthy("postgres", [*test[1:], f"--port={port}"])
        there = {"PGHOST": "127.0.0.1", "PGPORT": port, "PGPASSWORD": own["POSTGRES_PASSWORD"]}
        script = [str(PROJECT / "docker" / "make-databases.sh")]
        made = subprocess.run(
            script, env={**self.environment_of_tests(), **own, **there}, capture_output=True, text=True
        )
        assert made.returncode == 0, made.stderr

    def start_objects(self) -> None:
        """Start moto's object store."""
        port = str(self.ports["objects"])
        program = "from moto.server import main; main()"
        command = [sys.executable, "-c", program, "--host", "127.0.0.1", "--port", port]
        self.spawn("objects", command, self.environment("objects"))
        address = f"http://127.0.0.1:{port}/moto-api/"
        look = f"from urllib.request import urlopen; urlopen({address!r}, timeout=5)"
        self.wait_healthy("objects", [sys.executable, "-c", look])
