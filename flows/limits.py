"""The ``gpu`` concurrency limit: one network at a time on the GPU, however many runs there are."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

from tasks.params import read_params

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

GPU = "gpu"
_NETWORK_STAGES = ("classify", "cams", "train", "relabel", "evaluate", "reference", "predict")
_DEVICE = Path("/dev/nvidiactl")


def uses_gpu(root: Path, stage: str) -> bool:
    """Tell whether a stage is going to use a GPU: it runs a network, and params and machine say so."""
    if stage.partition("@")[0] not in _NETWORK_STAGES:
        return False
    device = read_params(root / "params.yaml").compute.device
    return device == "cuda" or (device == "auto" and _DEVICE.exists())


@contextlib.contextmanager
def hold_gpu(root: Path, stage: str) -> Iterator[None]:
    """Hold the GPU while a stage runs, waiting for it first; does nothing for a stage that needs none.

    The limit is made where it does not exist: one that is missing would not limit at all.
    """
    if not uses_gpu(root, stage):
        yield
        return
    from prefect.concurrency.sync import concurrency

    ensure_gpu_limit()
    with concurrency(GPU, occupy=1, strict=True):
        yield


def ensure_gpu_limit() -> None:
    """Create the limit, of one slot, unless there is one, which is left as it is."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        ensure_limit(client, GPU, 1, keep=True)


def ensure_limit(client: SyncPrefectClient, name: str, slots: int, *, keep: bool) -> UUID:
    """Make sure that a global concurrency limit exists; return its id.

    Parameters
    ----------
    client : SyncPrefectClient
    name : str
    slots : int
        How many may hold it at once.
    keep : bool
        Leave the slots of a limit that exists as they are.
    """
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, GlobalConcurrencyLimitUpdate
    from prefect.exceptions import ObjectNotFound

    try:
        found = client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        return client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=slots))
    if not keep and found.limit != slots:
        client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(limit=slots))
    return found.id
