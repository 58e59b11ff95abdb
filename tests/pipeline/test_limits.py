"""The ``gpu`` limit against a real (temporary) Prefect server."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_project import build_params, write_params

from flows import limits

pytestmark = pytest.mark.usefixtures("prefect_server")


def read_limit() -> tuple[int, int]:
    """Slots of the limit, and how many are taken."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = client.read_global_concurrency_limit_by_name(limits.GPU)
    return found.limit, found.active_slots


@pytest.fixture
def cuda_project(tmp_path: Path) -> Path:
    write_params(build_params(compute={"device": "cuda"}), tmp_path)
    return tmp_path


def test_a_stage_with_a_network_holds_the_only_slot(cuda_project: Path):
    with limits.hold_gpu(cuda_project, "train@1"):
        assert read_limit() == (1, 1)
    assert read_limit() == (1, 0)


def test_a_stage_without_a_network_holds_none(cuda_project: Path):
    limits.ensure_gpu_limit()
    for stage in ("ingest", "cues", "refine@2", "report"):
        with limits.hold_gpu(cuda_project, stage):
            assert read_limit()[1] == 0, stage


def test_slots_that_a_person_gave_stay(cuda_project: Path):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate

    limits.ensure_gpu_limit()
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit(limits.GPU, GlobalConcurrencyLimitUpdate(limit=2))
    limits.ensure_gpu_limit()
    assert read_limit()[0] == 2
    with get_client(sync_client=True) as client:
        client.update_global_concurrency_limit(limits.GPU, GlobalConcurrencyLimitUpdate(limit=1))


def test_on_the_cpu_nothing_is_held(tmp_path: Path):
    write_params(build_params(), tmp_path)
    assert not limits.uses_gpu(tmp_path, "train@1")
