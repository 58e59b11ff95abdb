"""One Prefect task for any stage: ask DVC, run DVC, show what happens."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import get_run_logger, runtime, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas import State
from prefect.states import Completed, Failed

from flows.limits import hold_gpu
from flows.nodes import asked_for_nodes
from flows.story import ProgressArtifact, read_tracked, show_dashboard, show_results
from flows.versioning import Outcome, is_up_to_date, reproduce_stage, run_child
from flows.versioning_runs import save_experiment
from tasks.cluster import parse_dashboard
from tasks.console import parse_progress
from tasks.errors import UserError
from tasks.warm import owned_by_children


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
def run_stage(stage: str, *, root: str, expect_work: bool = False) -> State:
    """Bring one stage of ``dvc.yaml`` up to date.

    Parameters
    ----------
    stage : str
        As DVC names it: ``cams``, ``train@1``.
    root : str
        Folder with ``dvc.yaml``.
    expect_work : bool
        A stage that this one reads from has just run: whether this one is up to date, which it hardly is,
        is left to DVC to find out when it is to run it.

    Returns
    -------
    State
        Completed, named ``UpToDate`` where nothing was to do, ``Cached`` where DVC had the result of
        earlier work, or ``Completed``; Failed with the stage's own message.
    """
    folder = Path(root)
    try:
        if not expect_work and is_up_to_date(folder, stage):
            return _up_to_date()
        with hold_gpu(folder, stage):
            outcome = _reproduce(folder, stage)
    except UserError as error:
        return Failed(message=f"{stage}: {error}")
    if outcome.error is not None:
        return Failed(message=f"{stage}: {outcome.error}")
    if outcome.unchanged:
        return _up_to_date()
    return Completed(name="Cached", message="restored by DVC") if outcome.cached else Completed()


def has_run(state: State) -> bool:
    """Tell from how a stage ended whether its body ran."""
    return state.name == Completed().name


def _up_to_date() -> State:
    return Completed(name="UpToDate", message="nothing changed since it last ran")


@task(name="command", task_run_name="{what}", cache_policy=NO_CACHE, persist_result=False)
def run_command(what: str, command: list[str], *, root: str) -> State:
    """Run a command that is no stage of DVC's, in the folder `root`; its last error line is the state's."""
    try:
        with hold_gpu(Path(root), what):
            status, lines = run_child(command, Path(root), on_line=_show_lines(what))
    except UserError as error:
        return Failed(message=str(error))
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return Completed() if status == 0 else Failed(message="\n".join(own or lines[-3:]))


def _reproduce(folder: Path, stage: str) -> Outcome:
    show = _show_lines(stage)
    with asked_for_nodes(folder, stage, get_run_logger()) as nodes:

        def handle_line(line: str) -> None:
            show(line)
            nodes.handle_line(line)

        return reproduce_stage(folder, stage, on_line=handle_line, environment=_describe_run())


def _show_lines(stage: str) -> Callable[[str], None]:
    """Show what a child process says: its progress as an artifact, everything else in the log."""
    log = get_run_logger()
    progress = ProgressArtifact(stage)

    def handle_line(line: str) -> None:
        if (parsed := parse_progress(line)) is not None:
            progress.update(*parsed)
            return
        log.info(line)
        if (link := parse_dashboard(line)) is not None:
            show_dashboard(stage, link)

    return handle_line


def _describe_run() -> dict[str, str]:
    """Name this run for the stage, which tags its MLflow run with it."""
    flow_run = runtime.flow_run.id
    if not flow_run:
        return {}
    url = str(runtime.flow_run.ui_url)  # a server that is only there for this run has no pages
    return {
        "DSRG_FLOW_RUN_ID": str(flow_run),
        **({"DSRG_FLOW_RUN_URL": url} if url.startswith("http") else {}),
    }


def _track_study(root: Path, experiment: str | None) -> None:
    """Have the run's results written to MLflow, whether its stages ran or were up to date."""
    log = get_run_logger()
    about = {**_describe_run(), **owned_by_children()}
    if experiment:
        about["DSRG_EXPERIMENT"] = experiment
    status, _ = run_child([sys.executable, "-m", "tasks", "study"], root, on_line=log.info, environment=about)
    if status:
        log.warning("the results were not written to MLflow; once it works: python -m tasks.study")


def conclude(root: Path, states: dict[str, State], *, experiment: str | None = None) -> State:
    """Sum a run up: its results as artifacts, or what failed and in which words.

    Parameters
    ----------
    root : Path
        Folder of the run.
    states : dict
        How each stage ended.
    experiment : str, optional
        Name of the DVC experiment to keep the run as.
    """
    failed = [
        state.message or stage for stage, state in states.items() if state.is_failed() or state.is_crashed()
    ]
    if failed:
        return Failed(message="\n".join(failed))
    if not all(state.is_completed() for state in states.values()):
        return Failed(message="not every stage was started")
    kept = save_experiment(root, experiment, say=get_run_logger().warning) if experiment else None
    _track_study(root, kept)
    show_results(root, experiment=kept, tracked=read_tracked(root))
    ran = sum(map(has_run, states.values()))
    restored = sum(state.name == "Cached" for state in states.values())
    rest = len(states) - ran - restored
    return Completed(
        message=f"{ran} of {len(states)} stages ran, {restored} restored from the cache, {rest} up to date"
    )
