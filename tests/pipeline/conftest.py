"""What costs seconds and is made once: Prefect's test server, and one run of the whole method."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def prefect_server() -> Iterator[None]:
    """A temporary Prefect server and database, thrown away afterwards."""
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=600):
        yield


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace in which every stage ran, on a handful of pictures. Not to be changed: copy it."""
    from tiny_project import (
        build_params,
        ingest,
        list_label_stages,
        run_stage,
        without_tracking,
        write_params,
    )

    from tasks.workspace import Workspace

    root = tmp_path_factory.mktemp("tiny")
    params, workspace = build_params(), Workspace(root)
    write_params(params, root)
    with without_tracking():
        ingest(params, workspace)
        for stage in [*list_label_stages(params), "baseline", "evaluate@1", "evaluate@2", "reference"]:
            run_stage(params, workspace, stage)
        run_stage(params, workspace, "report")
    return root
