"""A study's run in MLflow, filled from the results on disk: ``python -m tasks.study``; no stage of DVC.

What counts is what the results say, not which stages ran today: after a run in which everything was up
to date or restored, MLflow shows the same as after one that computed all of it. Done twice, it leaves
what doing it once leaves.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import accumulate
from pathlib import Path
from typing import Any

from tasks import console, journal, tracking
from tasks.errors import UserError, describe_os_error
from tasks.page import PAGE, write_page
from tasks.params import Params, read_params
from tasks.predict import list_drawing
from tasks.tracking_places import locate_pages
from tasks.workspace import WORK, Workspace

TRACKED = f"{WORK}/tracked.json"
_PREVIEW = (720, 720)
_NOTE = 5000  # characters that MLflow takes
_LABELS = ("cues", "seeds", "pseudo_labels")
Points = dict[str, dict[int, float]]


def log_study(params: Params, workspace: Workspace) -> None:
    """Write everything that the results on disk say to the study's run, and where that is.

    Reads: ``metrics/``, ``reports/``, ``data/rounds/R/panels``, the last ``segmenter.safetensors``,
    ``params.yaml``, ``dvc.lock``

    Writes: ``report.html``, ``.work/tracked.json``, ``.work/journal.json``

    Raises
    ------
    UserError
        A result is missing.
    """
    summary = workspace.read_json("metrics/summary.json", stage="report")
    evaluated = {key: _read_evaluation(workspace, key) for key in params.round_keys}
    points = list_points(params, evaluated, summary)
    points |= list_best(points)
    with tracking.study_run(workspace, params, whole=True) as run, tempfile.TemporaryDirectory() as place:
        run.log_params(params.model_dump(mode="json"))
        run.set_tags(list_outputs(params, workspace))
        run.log_dataset(*tracking.describe_data(workspace, params))
        run.log_points(points)
        for key in params.round_keys:
            _log_panels(run, workspace, key, step=_number(params, key), place=Path(place))
        _note_run(run, workspace)
        _log_report(run, workspace, page=write_page(params, workspace), place=Path(place))
        _log_model(run, params, workspace, points, step=len(params.rounds))
        run.ended = int(workspace.path("metrics/summary.json").stat().st_mtime * 1000)
    _write_place(run, workspace)


def log_round(params: Params, workspace: Workspace, round_key: str) -> None:
    """Write one round's numbers and panels to the study's run, as soon as there are any."""
    points = list_points(params, {round_key: _read_evaluation(workspace, round_key)}, {})
    with tracking.study_run(workspace, params) as run, tempfile.TemporaryDirectory() as place:
        run.log_params(params.model_dump(mode="json"))
        run.log_points(points)
        _log_panels(run, workspace, round_key, step=_number(params, round_key), place=Path(place))


def list_points(params: Params, evaluated: Mapping[str, Any], summary: Mapping[str, Any]) -> Points:
    """List the points of a study's curves, by name and step: the step is the round, 0 what has none.

    Parameters
    ----------
    params : Params
    evaluated : mapping
        ``evaluate.json`` of each round.
    summary : mapping
        ``summary.json``; may be empty.
    """
    points: Points = {}

    def add(name: str, value: float | None, step: int) -> None:
        if value is not None:
            points.setdefault(re.sub(r"[^/\w.\- :]", "_", name), {})[step] = float(value)

    for key, found in evaluated.items():
        if found["available"]:
            for name, value in _flatten_evaluation(found):
                add(name, value, _number(params, key))
        for name, value in found.get("image_labels", {}).get("raw", {}).items():
            add(f"val/image_labels/{name}", value, _number(params, key))
    for key, scores in summary.get("rounds", {}).items():
        for name in ("share_of_reference", "share_of_reference_crf"):
            add(f"val/{name}", scores["val"].get(name), _number(params, key))
    for name, value in tracking.flatten(summary).items():
        if not name.startswith(("rounds.", "agreement.", "baseline.cues.")) and not isinstance(value, bool):
            add(name.replace(".", "/"), value, 0)
    return points


def list_best(points: Points) -> Points:
    """List the curves of the best round so far, from the points of all rounds."""
    best: Points = {}
    for name in ("val/miou", "val/miou_crf", "pseudo_labels/miou"):
        steps = sorted(points.get(name, ()))
        if steps:
            highest = accumulate((points[name][step] for step in steps), max)
            best[f"best/{name}"] = dict(zip(steps, highest, strict=True))
    return best


def list_outputs(params: Params, workspace: Workspace) -> dict[str, str]:
    """List what DVC recorded of the outputs of stages that are not stale, as tags: ``dvc.md5.train.1``."""
    stale = list_stale(params, workspace)
    return {
        f"dvc.md5.{stage.replace('@', '.')}": ", ".join(
            f"{out['path']} {out['md5']}" for out in record["outs"]
        )
        for stage, record in _read_records(params, workspace).items()
        if record.get("outs") and stage not in stale
    }


def list_stale(params: Params, workspace: Workspace) -> list[str]:
    """List stages whose results are not those of ``params.yaml``, by what DVC recorded.

    A stage is stale if a param or an input has another value than its last run had, or if its numbers
    on disk are not the recorded ones. Without a ``dvc.lock`` nothing is known.
    """
    records = _read_records(params, workspace)
    made = {out["path"]: out["md5"] for record in records.values() for out in record.get("outs", [])}
    values = params.model_dump(mode="json")
    return [
        stage
        for stage, record in records.items()
        if any(
            _look_up(values, key) != value
            for key, value in record.get("params", {}).get("params.yaml", {}).items()
        )
        or any(made.get(dep["path"], dep["md5"]) != dep["md5"] for dep in record.get("deps", []))
        or any(
            out["path"].startswith("metrics/") and _hash(workspace.path(out["path"])) != out["md5"]
            for out in record.get("outs", [])
        )
    ]


def _read_records(params: Params, workspace: Workspace) -> dict[str, Any]:
    """Read what DVC recorded of this study's stages; a lock may hold rounds that were removed since."""
    return {
        stage: record
        for stage, record in tracking.read_lock(workspace).items()
        if "@" not in stage or stage.partition("@")[2] in params.rounds
    }


def _read_evaluation(workspace: Workspace, key: str) -> Any:
    return workspace.read_json(f"metrics/rounds/{key}/evaluate.json", stage=f"evaluate@{key}")


def _number(params: Params, round_key: str) -> int:
    return params.round_keys.index(round_key) + 1


def _flatten_evaluation(found: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    for kind in _LABELS:
        quality = found["train"][kind]
        yield f"{kind}/miou", quality["unlabelled_as_background"]["miou"]
        yield f"{kind}/miou_excluded", quality["unlabelled_excluded"]["miou"]
        yield f"{kind}/coverage", quality["all"]["coverage"]
        for group, short in (("foreground", "fg"), ("background", "bg")):
            for measure in ("precision", "recall"):
                yield f"{kind}/{short}_{measure}", quality[group][measure]
    for kind, suffix in (("raw", ""), ("crf", "_crf")):
        scores = found["val"][kind]
        yield f"val/miou{suffix}", scores["miou"]
        for name, value in scores["iou"].items():
            yield f"val/iou{suffix}/{name}", value
    for name, value in found["train"]["pseudo_labels"]["unlabelled_as_background"]["iou"].items():
        yield f"pseudo_labels/iou/{name}", value


def _log_panels(run: tracking.Run, workspace: Workspace, key: str, *, step: int, place: Path) -> None:
    """Log the same pictures under the same keys in every study and round: ``train-00``.

    The newest round is at step 0 as well: that is where MLflow's image grid opens.
    """
    panels = {
        named[0]: panel
        for panel in sorted(workspace.path(f"data/rounds/{key}/panels").glob("*-*.png"))
        if (named := re.match(r"(train|val)-\d+", panel.name))
    }
    for group, at in ((f"round.{key}", step), ("newest", 0)):
        run.log_files(group, _prepare_images(panels, step=at, place=place))
    run.set_tags({"mlflow.loggedImages": "True"})


def _note_run(run: tracking.Run, workspace: Workspace) -> None:
    """Note where the run is and what it was made from, for the page; what was noted first stays."""
    facts: dict[str, Any] = {"made": datetime.now().astimezone().isoformat(timespec="seconds")}
    facts |= tracking.describe_code(workspace)
    once = list(facts)
    facts |= {
        "experiment": os.environ.get("DSRG_EXPERIMENT"),
        "flow_run_url": os.environ.get("DSRG_FLOW_RUN_URL"),
    }
    if run.reached:
        facts |= {"run_id": run.run_id, "experiment_id": run.experiment_id, "url": locate_pages()}
    journal.note(workspace, journal.STUDY, facts, once=once)


def _log_report(run: tracking.Run, workspace: Workspace, *, page: Path, place: Path) -> None:
    reports, written = workspace.path("reports"), workspace.path("params.yaml")
    if written.is_file():
        run.log_files("params", {"params.yaml": written})
    table = reports / "summary.md"
    if table.is_file():  # as the run's description
        run.set_tags({"mlflow.note.content": table.read_text(encoding="utf-8").partition("## ")[0][:_NOTE]})
    files = {f"reports/{path.name}": path for path in sorted(reports.glob("*")) if path.is_file()}
    files.pop(f"reports/{PAGE}", None)  # the same page, but for what only the whole one tells
    files[PAGE] = page
    files |= _prepare_images({path.stem: path for path in reports.glob("*.png")}, step=0, place=place)
    run.log_files("report", files | {"metrics/summary.json": workspace.path("metrics/summary.json")})


def _prepare_images(pictures: Mapping[str, Path], *, step: int, place: Path) -> dict[str, Path]:
    """Name pictures by their keys, and a small copy of each, as MLflow's image grid looks for them.

    MLflow's own ``log_image`` puts time and chance into the names, so that the same picture logged
    again would be another one.
    """
    from PIL import Image

    files: dict[str, Path] = {}
    for key, path in pictures.items():
        chance = uuid.uuid5(uuid.NAMESPACE_URL, f"{key}/{step}")
        name = f"images/{key}+step+{step}+timestamp+{1000 * step}+{chance}"
        small = place / f"{key}-{step}.webp"
        with Image.open(path) as picture:
            preview = picture.convert("RGB")
        preview.thumbnail(_PREVIEW)
        preview.save(small, "WEBP")
        files |= {f"{name}.png": path, f"{name}+compressed.webp": small}
    return files


def _log_model(run: tracking.Run, params: Params, workspace: Workspace, points: Points, *, step: int) -> None:
    from dsrg.models import load_segmenter_spec

    weights = workspace.path(f"data/rounds/{params.round_keys[-1]}/segmenter.safetensors")
    if not weights.is_file():
        return
    run.log_model(
        weights,
        data=tracking.name_data(params),
        settings=list_drawing(params, log_odds=load_segmenter_spec(weights).log_odds),
        classes=["background", *tracking.read_attributes(workspace).get("classes", [])],
        scores={
            name: points[name][step] for name in ("val/miou", "val/miou_crf") if step in points.get(name, {})
        },
        step=step,
    )


def _write_place(run: tracking.Run, workspace: Workspace) -> None:
    """Leave where the run is for those who show links to it; nothing where MLflow was not reached."""
    place = workspace.path(TRACKED)
    if not run.reached or run.run_id is None:
        place.unlink(missing_ok=True)
        return
    found = {"run_id": run.run_id, "experiment_id": run.experiment_id, "url": locate_pages()}
    workspace.write_json(TRACKED, {key: value for key, value in found.items() if value})


def _look_up(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values


def _hash(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest() if path.is_file() else ""


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.study", description=__doc__)
    parser.add_argument("--root", type=Path, default=Path(), help="folder with params.yaml (default: .)")
    options = parser.parse_args(arguments)
    workspace = Workspace(options.root)
    try:
        params = read_params(workspace.path("params.yaml"))
        stale = list_stale(params, workspace)
        if stale:
            raise UserError(f"results are not those of params.yaml ({', '.join(stale)}): run dvc repro first")
        log_study(params, workspace)
    except UserError as error:
        console.fail(str(error))
        return 2
    except OSError as error:
        message = describe_os_error(error)
        if message is None:
            raise
        console.fail(message)
        return 2
    waiting = tracking.count_waiting(workspace)
    if waiting:
        runs = f"{waiting} run{'s' * (waiting > 1)}"
        console.warn(
            f"what MLflow lacks of {runs} waits in {tracking.locate_spool(workspace)}: "
            "the next run sends it, or python -m tasks.study"
        )
    place = workspace.path(TRACKED)
    if place.exists():
        console.say(f"MLflow   run {json.loads(place.read_text(encoding='utf-8'))['run_id']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
