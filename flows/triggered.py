"""The flows of the Prefect UI: each run works in a folder of its own, see :mod:`flows.run_folders`.

The names of the parameters are those of the form, :mod:`flows.forms`; the server has checked their
types and bounds before a run starts. What only the project itself can tell (a missing folder, an
unknown run) ends the run with one line in its state.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prefect import flow, runtime
from prefect.client.schemas import State
from prefect.states import Completed, Failed

from flows.forms import MORE, list_settings
from flows.pipeline import chain_stages
from flows.run_folders import RUNS, open_run_folder, reach_pictures, remove_run_folder
from flows.stages import conclude, run_command
from flows.story import show_overlays
from flows.unattended import quieten
from tasks.errors import UserError
from tasks.lifetime import end_with_starter
from tasks.params import read_params

PROJECT, REGISTERED = "DSRG_PROJECT", "DSRG_REGISTERED_PROJECT"
_TRACKING = "DSRG_TRACKING_ROOT"
_JOIN_SECONDS = 60  # in which a call that was made is seen here


def _name_pipeline() -> str:
    values = runtime.flow_run.parameters
    return f"{Path(str(values.get('source'))).name}-r{values.get('rounds')}"


def _name_round() -> str:
    data, rounds = _read_base()
    return f"{data}-r{rounds + 1}"


def _name_evaluation() -> str:
    data, rounds = _read_base()
    return f"{data}-r{rounds}-re-evaluated"


def _read_base() -> tuple[str, int]:
    """Read data set and rounds off the name of the run to start from, or off the project's params."""
    named = re.fullmatch(r"(.+)-r(\d+)(-.*)?", str(runtime.flow_run.parameters.get("run") or ""))
    if named:
        return named[1], int(named[2])
    params = read_params(_find_project() / "params.yaml")
    return params.source.name, len(params.rounds)


def _name_prediction() -> str:
    return f"predict-{Path(str(runtime.flow_run.parameters['images'])).name}"


@flow(name="dsrg-pipeline", flow_run_name=_name_pipeline)
def run_form(
    source: str,
    rounds: int,
    backbone_name: str,
    classify_epochs: int,
    train_epochs: int,
    train_lr: float,
    train_crop_size: int,
    train_batch_size: int,
    train_boundary_weight: float,
    retrain_epochs: int,
    cues_exponent: float,
    cues_spread: float,
    train_fg_threshold: float,
    train_bg_threshold: float,
    relabel_fg_threshold: float,
    relabel_bg_threshold: float,
    refine_min_confidence: float,
    reference_enabled: bool,
    train_random_seed: int,
    compute_device: str,
    more: str = "",
) -> State:
    """Run the whole pipeline with the params of the form; every other one is as in ``params.yaml``."""
    return _run_apart(dict(locals()), rounds=lambda _: rounds)


@flow(name="dsrg-one-more-round", flow_run_name=_name_round)
def add_round(run: str = "", more: str = "") -> State:
    """Add one round to a finished run: only that round is computed."""
    return _run_apart({MORE: more}, base=run, rounds=lambda before: before + 1)


@flow(name="dsrg-re-evaluate", flow_run_name=_name_evaluation)
def evaluate_again(
    evaluate_flip: bool,
    evaluate_crf_adjustment: float,
    evaluate_crf_iterations: int,
    evaluate_crf_bilateral_weight: float,
    evaluate_crf_bilateral_xy: float,
    evaluate_crf_bilateral_rgb: float,
    evaluate_crf_gaussian_weight: float,
    evaluate_crf_gaussian_xy: float,
    compute_device: str,
    run: str = "",
) -> State:
    """Score a finished run again with another CRF or without mirroring; nothing is trained."""
    values = dict(locals())
    return _run_apart(values, base=values.pop("run"))


@flow(name="dsrg-predict", flow_run_name=_name_prediction)
def predict_folder(
    images: str, out: str = "", run: str = "", crf: bool = True, device: str = "auto"
) -> State:
    """Draw label maps over a folder of pictures with a finished run's segmenter."""
    end_with_starter()
    project = _find_project()
    name = name_experiment(str(runtime.flow_run.name), str(runtime.flow_run.id))
    target = project / Path(out).expanduser() if out else project / "predictions" / name
    command = [
        sys.executable,
        "-m",
        "tasks.predict",
        str(project / Path(images).expanduser()),
        "--out",
        str(target),
    ]
    command += ["--device", device, *([] if crf else ["--no-crf"])]
    try:
        folder = open_run_folder(project, name, base=run)
        state = run_command("predict", command, root=str(folder), return_state=True)
    except UserError as error:
        return Failed(message=str(error))
    remove_run_folder(project, name)
    if not state.is_completed():
        return Failed(message=state.message)
    show_overlays(target)
    return Completed(message=f"label maps and overlays: {target}")


@flow(name="dsrg-join")
def join_training(folder: str, call: str) -> State:
    """Be one more machine of a training that a run on another one waits with."""
    end_with_starter()
    quieten()
    command = [sys.executable, "-m", "tasks.join", "--root", folder, "--once"]
    command += ["--call", call, "--seconds", str(_JOIN_SECONDS)]
    if not Path(folder).is_dir():
        return Failed(
            message=f"`{folder}` is not here: all machines must share the project, at the same place"
        )
    state = run_command("join", command, root=folder, return_state=True)
    return state if state.is_completed() else Failed(message=state.message)


def _find_project() -> Path:
    return Path(os.environ.get(PROJECT) or os.environ.get(REGISTERED, ".")).resolve()


def _run_apart(
    values: dict[str, Any], *, base: str = "", rounds: Callable[[int], int] = lambda before: before
) -> State:
    """Run the pipeline in a folder of its own; keep the folder unless the run completes."""
    from flows.params_file import edit_params

    end_with_starter()
    quieten()
    project = _find_project()
    name = name_experiment(str(runtime.flow_run.name), str(runtime.flow_run.id))
    os.environ.setdefault(_TRACKING, str(project))

    def configure(folder: Path) -> None:
        reach_pictures(project, folder, settings)
        edit_params(folder, rounds=rounds(len(read_params(folder / "params.yaml").rounds)), settings=settings)

    try:
        settings = list_settings(values, project)
        folder = open_run_folder(project, name, base=base, configure=configure)
        states = chain_stages(str(folder))
    except UserError as error:
        return Failed(message=str(error))
    state = conclude(folder, states, experiment=name)
    if not state.is_completed():
        return Failed(message=f"{state.message}\nKept in {RUNS}/{name}: a retry continues there")
    remove_run_folder(project, name)
    return state


def name_experiment(run_name: str, run_id: str) -> str:
    """Name a run's folder and DVC experiment: its readable name, and enough of its id to be the only one.

    Examples
    --------
    >>> name_experiment("my birds-r2", "3f9c0d5e-0000")
    'my-birds-r2-3f9c'
    """
    return f"{re.sub(r'[^A-Za-z0-9_-]+', '-', run_name).strip('-')}-{run_id[:4]}"
