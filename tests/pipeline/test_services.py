"""The files of docker/: well formed, without secrets, and their services do a run, but for the containers."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import boto3
import httpx
import pytest
from compose_services import BINARIES, COMPOSE, PROJECT, Services, fill_in, read_compose, read_example
from served_project import ServedProject, list_studies
from tiny_project import build_params, write_params
from toy_project import commit, copy_project, run_dvc

DOCKER = PROJECT / "docker"
PASSWORDS = ("POSTGRES_PASSWORD", "PREFECT_DB_PASSWORD", "MLFLOW_DB_PASSWORD", "S3_SECRET_KEY")
BIN = Path(sys.executable).parent


@pytest.mark.parametrize(
    "command",
    [
        ["hadolint", "--failure-threshold", "info", "docker/Dockerfile"],
        [
            sys.executable,
            "-m",
            "check_jsonschema",
            "--builtin-schema",
            "vendor.compose-spec",
            "docker/compose.yaml",
        ],
        ["sh", "-n", "docker/make-databases.sh"],
    ],
    ids=["hadolint", "compose", "sh"],
)
def test_tool_finds_nothing(command: list[str]) -> None:
    path = os.pathsep.join([str(BIN), os.environ["PATH"]])
    done = subprocess.run(
        command, cwd=PROJECT, capture_output=True, text=True, env={**os.environ, "PATH": path}
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_passwords_come_from_the_environment_and_none_is_in_git() -> None:
    example = read_example()
    assert [example[name] for name in PASSWORDS] == [""] * len(PASSWORDS)
    text = COMPOSE.read_text()
    with pytest.raises(KeyError, match=r"write it into docker/\.env"):
        fill_in(text, example)
    filled = fill_in(text, {**example, **{name: f"secret-{name}" for name in PASSWORDS}})
    assert "${" not in filled
    assert subprocess.run(["git", "check-ignore", "-q", "docker/.env"], cwd=PROJECT).returncode == 0


def test_every_service_is_pinned_and_watched_and_drops_rights() -> None:
    for name, service in read_compose()["services"].items():
        image, tag = service["image"].rsplit(":", 1)
        assert tag not in ("latest", ""), name
        assert "test" in service["healthcheck"] or service["healthcheck"] == {"disable": True}, name
        if image == "dsrg":
            assert service["cap_drop"] == ["ALL"], name
        for port in service.get("ports", []):
            assert port.startswith("${BIND:-127.0.0.1}:"), name
    users = [line for line in (DOCKER / "Dockerfile").read_text().splitlines() if line.startswith("USER")]
    assert users == ["USER 1000"] * 2


def test_what_is_waited_for_is_there() -> None:
    services = read_compose()["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert (how["condition"] == "service_healthy") == ("test" in services[other]["healthcheck"]), name


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(BINARIES is None, reason="needs Postgres: apt-get install postgresql")
def test_its_services_do_a_run(tmp_path: Path) -> None:
    root = copy_project(tmp_path / "project")
    (root / "docker").mkdir()
    for name in ("make_bucket.py", "compose.yaml"):
        (root / "docker" / name).write_text((DOCKER / name).read_text())
    write_params(build_params(reference={"enabled": False}, compute={"stores": "s3://dsrg/stores"}), root)
    run_dvc(root, "remote", "add", "-d", "objects", "s3://dsrg/dvc")
    commit(root)
    variables = {**read_example(), **{name: f"secret{number}" for number, name in enumerate(PASSWORDS)}}
    with Services(tmp_path, root, variables) as services:
        prefect, mlflow = (f"http://127.0.0.1:{services.ports[name]}" for name in ("prefect", "mlflow"))
        variables |= {"PREFECT_PUBLIC_API": f"{prefect}/api", "MLFLOW_HOSTS": mlflow.removeprefix("http://")}
        services.start_postgres()
        services.start_objects()
        services.run("bucket")
        services.run("bucket")  # again, as after a restart
        services.start("prefect")
        services.start("mlflow")
        assert "registered for work pool cpu" in services.run("register")
        services.start("worker-cpu")

        person = ServedProject(root, tmp_path)
        person.url, person.log = prefect, tmp_path / "worker-cpu.log"
        run = person.trigger("whole-pipeline", rounds=1)
        person.wait_for(run, "COMPLETED", timeout=900)
        assert set(person.read_tasks(run).values()) == {"Completed"}

        _, studies = list_studies(mlflow)
        assert len(studies) == 1
        environment = services.environment("mlflow")
        store = boto3.client(
            "s3",
            endpoint_url=environment["AWS_ENDPOINT_URL"],
            aws_access_key_id=environment["AWS_ACCESS_KEY_ID"],
            aws_secret_access_key=environment["AWS_SECRET_ACCESS_KEY"],
            region_name="us-east-1",
        )
        kept = [item["Key"] for item in store.list_objects_v2(Bucket="mlflow")["Contents"]]
        assert any(key.endswith("segmenter.safetensors") for key in kept), kept
        assert any(key.endswith("report.html") for key in kept), kept
        with pytest.MonkeyPatch.context() as patch:  # what runs made, from a shell of the worker
            for name, value in services.environment("worker-cpu").items():
                patch.setenv(name, value)
            (name,) = run_dvc(root, "exp", "list", "--name-only").split()
            run_dvc(root, "exp", "apply", name)
            run_dvc(root, "push")
        kept = [item["Key"] for item in store.list_objects_v2(Bucket="dsrg")["Contents"]]
        assert any("/pseudo_labels.zarr/pseudo_label/c/" in key for key in kept), kept
        assert any(key.startswith("dvc/files/md5/") for key in kept), kept
        refused = httpx.get(f"{mlflow}/api/2.0/mlflow/experiments/search", headers={"Host": "evil.example"})
        assert refused.status_code == httpx.codes.FORBIDDEN
        for name in ("prefect", "mlflow"):
            assert count_tables(services, name) > 5
    assert not list((root / ".work").glob("*.db")), "nothing was written beside Postgres"


def count_tables(services: Services, database: str) -> int:
    import psycopg2

    password = services.variables[f"{database.upper()}_DB_PASSWORD"]
    connection = psycopg2.connect(
        host="127.0.0.1",
        port=services.ports["postgres"],
        dbname=database,
        user=database,
        password=password,
    )
    try:
        with connection.cursor() as cursor:
            cursor.execute("select count(*) from information_schema.tables where table_schema = 'public'")
            return int(cursor.fetchone()[0])
    finally:
        connection.close()
