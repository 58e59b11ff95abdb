"""An object store of S3's kind: moto's server, a process of its own on loopback, that keeps all in memory."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

BUCKET = "pictures"


class ObjectStore:
    """A running server with one bucket.

    Attributes
    ----------
    environment : dict
        What a process needs in its environment to reach it.
    url : str
        The bucket.
    """

    def __init__(self, folder: Path) -> None:
        self.port = _find_free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.url = f"s3://{BUCKET}"
        self.environment = {
            "AWS_ACCESS_KEY_ID": "someone",
            "AWS_SECRET_ACCESS_KEY": "a password",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_ENDPOINT_URL": self.address,
            "DSRG_CACHE": str(folder / "copies"),
        }
        self._log = folder / "objects.log"
        self._start()
        self.client: Any = boto3.client(
            "s3",
            endpoint_url=self.address,
            region_name="us-east-1",
            aws_access_key_id="someone",
            aws_secret_access_key="a password",
            config=Config(retries={"max_attempts": 1}),
        )
        self.client.create_bucket(Bucket=BUCKET)

    def _start(self) -> None:
        program = "from moto.server import main; main()"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-c", program, "-H", "127.0.0.1", "-p", str(self.port)],
                env=os.environ | {"MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": "67108864"},
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                urllib.request.urlopen(f"{self.address}/moto-api/").close()
                return
            time.sleep(0.1)
        raise AssertionError(f"moto did not start:\n{self._log.read_text()}")

    def stop(self) -> None:
        """End the server, and with it all that it held."""
        self._process.kill()
        self._process.wait()

    def put_tree(self, folder: Path, prefix: str) -> str:
        """Put all files of a folder under a prefix; return its URL."""
        for file in folder.rglob("*"):
            if file.is_file():
                key = f"{prefix}/{file.relative_to(folder).as_posix()}"
                self.client.put_object(Bucket=BUCKET, Key=key, Body=file.read_bytes())
        return f"{self.url}/{prefix}"

    def list(self, prefix: str = "") -> dict[str, int]:
        """List the objects under a prefix, and their sizes."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=BUCKET, Prefix=prefix)
        return {found["Key"]: found["Size"] for page in pages for found in page.get("Contents", [])}

    def read(self, key: str) -> bytes:
        found: bytes = self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return found

    def delete(self, key: str) -> None:
        self.client.delete_object(Bucket=BUCKET, Key=key)

    def list_requests(self) -> list[tuple[str, str]]:
        """List method and path of all requests so far, out of the server's log."""
        lines = [line for line in self._log.read_text(errors="replace").splitlines() if '] "' in line]
        asked = [line.partition('] "')[2].split(" HTTP/")[0].replace("\x1b[0m", "") for line in lines]
        return [(words[0], words[1]) for words in (line.split(" ", 1) for line in asked) if len(words) == 2]


def _find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def start_object_store(folder: Path) -> Iterator[ObjectStore]:
    """Start one for the time of the block."""
    folder.mkdir(parents=True, exist_ok=True)
    store = ObjectStore(folder)
    try:
        yield store
    finally:
        store.stop()
