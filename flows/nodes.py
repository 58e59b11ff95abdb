"""The other machines of one training, asked for in the work pool of the run that it belongs to.

A stage that waits for them says so. For each, a run of the deployment ``join`` is then made, which any idle
worker of the pool takes; those that none took are cancelled when the stage is over.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from prefect import runtime
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelled

from tasks.meeting import parse_call

DEPLOYMENT = "dsrg-join/join"
Log = logging.Logger | logging.LoggerAdapter[logging.Logger]


class Nodes:
    """The runs that were asked for, while a stage runs.

    Parameters
    ----------
    root : Path
        Folder of the run, which all machines share.
    stage : str
    log : Logger
        Told what becomes of it.
    """

    def __init__(self, root: Path, stage: str, log: Log) -> None:
        self._root, self._stage, self._log = root, stage, log
        self._runs: list[UUID] = []

    def handle_line(self, line: str) -> None:
        """Ask for machines if that is what the stage waits for; what goes wrong harms nothing."""
        called = parse_call(line)
        if called is None:
            return
        try:
            with get_client(sync_client=True) as client:
                self._ask(client, *called)
        except Exception as error:  # noqa: BLE001 - people may start `dsrg join` all the same
            self._log.warning("other machines could not be asked for: %s", error)

    def _ask(self, client: SyncPrefectClient, missing: int, call: str) -> None:
        pool = client.read_flow_run(UUID(str(runtime.flow_run.id))).work_pool_name
        if pool is None:
            return  # `dsrg run` and `dsrg serve` have one machine: people start the others
        try:
            deployment = client.read_deployment_by_name(DEPLOYMENT)
        except ObjectNotFound:
            self._log.warning("deployment %s is missing: dsrg serve --work-pool %s", DEPLOYMENT, pool)
            return
        for number in range(missing):
            run = client.create_flow_run_from_deployment(
                deployment.id,
                parameters={"folder": str(self._root.resolve()), "call": call},
                name=f"{runtime.flow_run.name}-{self._stage}-{number + 2}",
            )
            self._runs.append(run.id)
        self._log.info(
            "asked work pool %s for %d more: deployment %s", deployment.work_pool_name, missing, DEPLOYMENT
        )

    def dismiss(self) -> None:
        """Cancel the runs that no worker took: there is nothing left for them to join."""
        if not self._runs:
            return
        try:
            with get_client(sync_client=True) as client:
                for run in self._runs:
                    state = client.read_flow_run(run).state
                    if state is not None and (state.is_scheduled() or state.is_pending()):
                        client.set_flow_run_state(run, Cancelled(message="the training is over"), force=True)
        except Exception as error:  # noqa: BLE001 - a run that comes too late ends by itself
            self._log.warning("runs that are not needed any more could not be cancelled: %s", error)


@contextmanager
def asked_for_nodes(root: Path, stage: str, log: Log) -> Iterator[Nodes]:
    """Ask for other machines as long as a stage runs."""
    nodes = Nodes(root, stage, log)
    try:
        yield nodes
    finally:
        nodes.dismiss()
