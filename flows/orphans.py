"""Runs that a dead serving process left as running: named as crashed, so that the UI can retry them."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import State, StateType
from prefect.states import Cancelled, Crashed

from tasks import console


def settle_orphans(client: SyncPrefectClient, deployments: Sequence[UUID]) -> int:
    """Settle runs of served deployments that were going when their process died; return how many.

    Only for deployments that one process serves, before it starts to: whatever is running then has
    nobody who runs it.
    """
    going = [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING]
    runs = client.read_flow_runs(
        flow_run_filter=FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=going))),
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=list(deployments))),
    )
    for run in runs:
        if run.state is not None and run.state.is_cancelling():
            state: State[None] = Cancelled(message="stopped when `dsrg serve` ended")
        else:
            state = Crashed(message="`dsrg serve` ended while this ran. A retry continues where it stopped")
        client.set_flow_run_state(run.id, state, force=True)
        console.say(f"run {run.name} was going when `dsrg serve` ended: now {state.name}")
    return len(runs)
