"""What the Prefect UI can start, with forms, and how many runs go at once; what runs of a pool start."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from prefect.utilities.callables import ParameterSchema

from flows.forms import (
    EVALUATE_KEYS,
    build_fields,
    build_pipeline_form,
    join_fields,
    more_field,
    pick_run_field,
    predict_fields,
)
from flows.limits import ensure_limit
from flows.triggered import (
    REGISTERED,
    add_round,
    evaluate_again,
    join_training,
    predict_folder,
    run_form,
)
from tasks.params import Params

RUNS_LIMIT = "dsrg-runs"
_PIPELINE = """\
The whole method: classifier, CAMs, cues, then rounds of training, region growing and refining.

The form shows what `params.yaml` says. A run works in a folder of its own: **your files are not touched**.
What was computed before, here or by `dvc repro`, is restored and shows as *UpToDate* or *Cached*.

When it is done, its page has scores, panels and links; `dvc exp show` and MLflow compare it with others.
"""
_ROUND = """\
One round more for a finished run (its name as in `dvc exp list`; empty: the project as it is on disk).

Only that round is computed; everything before it is restored.
"""
_EVALUATE = """\
Scores a finished run again, with another CRF or without mirroring. No round is trained again.
"""
_PREDICT = """\
Draws label maps over a folder of pictures with the segmenter of a finished run.

Writes one palette PNG and one overlay for each picture.
"""
_JOIN = """\
One more machine of a training, where `compute.nodes` is more than 1. Runs start it by themselves.
"""


class StrictSchema(ParameterSchema):
    """A form that has no other fields: Prefect alone would take them and let the run crash."""

    additionalProperties: bool = False  # noqa: N815 - JSON schema's word


@dataclass(frozen=True)
class Offer:
    """One thing the UI can start."""

    name: str
    flow: Flow[..., Any]
    description: str
    tags: tuple[str, ...]
    fields: dict[str, dict[str, Any]]


def list_offers(params: Params) -> list[Offer]:
    """List what the UI can start, forms filled with the values of `params`."""
    more = {"more": more_field()}
    return [
        Offer("whole-pipeline", run_form, _PIPELINE, ("dsrg", "train"), build_pipeline_form(params)),
        Offer("one-more-round", add_round, _ROUND, ("dsrg", "train"), {**pick_run_field(), **more}),
        Offer(
            "re-evaluate",
            evaluate_again,
            _EVALUATE,
            ("dsrg", "evaluate"),
            {**pick_run_field(), **build_fields(params, EVALUATE_KEYS)},
        ),
        Offer("predict", predict_folder, _PREDICT, ("dsrg", "predict"), predict_fields()),
    ]


def offer_join() -> Offer:
    """Describe what a run starts in its own work pool, once for each further machine of a training.

    It is not one of the runs that wait in line: the run that waits for it holds their place.
    """
    return Offer("join", join_training, _JOIN, ("dsrg", "join"), join_fields())


def build_deployment(
    offer: Offer, *, work_pool: str | None = None, project: Path | None = None
) -> RunnerDeployment:
    """Build a deployment with the offer's form; it has no schedule.

    Parameters
    ----------
    offer : Offer
    work_pool : str, optional
        Whose workers run it.
    project : Path, optional
        Where it lies for workers that are not told otherwise: their runs begin in an empty folder.
    """
    deployment = RunnerDeployment.from_flow(
        offer.flow,
        name=offer.name,
        description=offer.description,
        tags=list(offer.tags),
        parameters={name: field["default"] for name, field in offer.fields.items() if "default" in field},
        entrypoint_type=EntrypointType.MODULE_PATH,
        work_pool_name=work_pool,
        job_variables=None if project is None else {"env": {REGISTERED: str(project)}},
    )
    deployment._parameter_openapi_schema = StrictSchema(
        title="Parameters",
        type="object",
        properties={
            name: {**field, "position": position}
            for position, (name, field) in enumerate(offer.fields.items())
        },
        required=[name for name, field in offer.fields.items() if "default" not in field],
        additionalProperties=False,
    )
    return deployment


def ensure_work_pool(client: SyncPrefectClient, name: str) -> None:
    """Create a work pool, whose workers run processes of their own machine, unless there is one."""
    try:
        client.read_work_pool(name)
    except ObjectNotFound:
        client.create_work_pool(WorkPoolCreate(name=name, type="process"))


def limit_runs(client: SyncPrefectClient, deployments: Sequence[UUID], *, limit: int) -> None:
    """Let at most `limit` runs of these deployments, taken together, go at once; the others wait in line."""
    limit_id = ensure_limit(client, RUNS_LIMIT, limit, keep=False)
    for deployment in deployments:
        client.request(
            "PATCH",
            "/deployments/{id}",
            path_params={"id": deployment},
            json={
                "global_concurrency_limit_id": str(limit_id),
                "concurrency_options": {"collision_strategy": "ENQUEUE"},
            },
        ).raise_for_status()
