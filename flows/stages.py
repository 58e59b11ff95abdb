"""One Prefect task for any stage: ask DVC, run DVC, show what happens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from prefect import get_run_logger, runtime, task
from prefect.artifacts import (
    create_image_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.states import Completed, Failed

from flows.results import encode_panel, list_panels
from flows.versioning import is_up_to_date, reproduce_stage
from tasks.console import parse_progress
from tasks.errors import UserError


def _was_killed(task: Any, run: Any, state: State) -> bool:
    return "StageKilledError" in (state.message or "")


@task(
    name="stage",
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retries=1,
    retry_condition_fn=_was_killed,
)
def run_stage(stage: str, *, root: str) -> State:
    """Bring one stage of ``dvc.yaml`` up to date.

    Parameters
    ----------
    stage : str
        As DVC names it: ``cams``, ``train@1``.
    root : str
        Folder with ``dvc.yaml``.

    Returns
    -------
    State
        Completed, named ``UpToDate`` where nothing was to do, ``Cached`` where DVC had the result of
        earlier work, or ``Completed``; Failed with the stage's own message.
    """
    folder = Path(root)
    log = get_run_logger()
    try:
        if is_up_to_date(folder, stage):
            return Completed(name="UpToDate", message="nothing changed since it last ran")
    except UserError as error:
        return Failed(message=f"{stage}: {error}")
    progress = _ProgressArtifact(stage)

    def handle_line(line: str) -> None:
        if (parsed := parse_progress(line)) is not None:
            progress.update(*parsed)
        else:
            log.info(line)

    outcome = reproduce_stage(folder, stage, on_line=handle_line, environment=_describe_run())
    if outcome.error is not None:
        return Failed(message=f"{stage}: {outcome.error}")
    return Completed(name="Cached", message="restored by DVC") if outcome.cached else Completed()


def _describe_run() -> dict[str, str]:
    """Name this run for the stage, which tags its MLflow run with it."""
    flow_run = runtime.flow_run.id
    return {"DSRG_FLOW_RUN_ID": str(flow_run)} if flow_run else {}


class _ProgressArtifact:
    """A bar on the run's page, made when there is something to show."""

    def __init__(self, stage: str) -> None:
        self._key = f"progress-{stage.replace('@', '-')}"
        self._artifacts: dict[str, Any] = {}

    def update(self, description: str, done: int, total: int) -> None:
        percent = 100.0 * done / max(total, 1)
        if description not in self._artifacts:
            self._artifacts[description] = create_progress_artifact(
                progress=percent, key=self._key, description=description
            )
        else:
            update_progress_artifact(self._artifacts[description], progress=percent)


def conclude(root: Path, states: dict[str, State]) -> State:
    """Sum a run up: its results as artifacts, or what failed and in which words."""
    failed = [
        state.message or stage for stage, state in states.items() if state.is_failed() or state.is_crashed()
    ]
    if failed:
        return Failed(message="\n".join(failed))
    if not all(state.is_completed() for state in states.values()):
        return Failed(message="not every stage was started")
    _show_results(root)
    ran = sum(state.name != "UpToDate" for state in states.values())
    return Completed(message=f"{ran} of {len(states)} stages had something to do")


def _show_results(root: Path) -> None:
    """Show the table and the last round's panels on the run's page, as artifacts."""
    summary = root / "reports" / "summary.md"
    if summary.exists():
        create_markdown_artifact(
            summary.read_text(encoding="utf-8"), key="summary", description="all numbers"
        )
    for panel in list_panels(root)[:1]:
        create_image_artifact(encode_panel(panel), key="panel", description=f"{panel.relative_to(root)}")
