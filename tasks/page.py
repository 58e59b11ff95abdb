"""The report as one HTML page that needs no other file, no network and no script.

There are two of it. Stage ``report`` makes one out of its inputs alone, which DVC keeps in ``reports/``: the
same inputs give the same bytes. The whole page, ``report.html``, also says when, where and how fast, and
links to MLflow, Prefect and DVC; it is written when a run ends, and by ``dsrg report``.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from tasks.changes import list_changes
from tasks.journal import STUDY, recall
from tasks.page_parts import (
    Part,
    describe_headline,
    list_charts,
    list_classes,
    list_legend,
    list_quality,
    list_tables,
    say_tile,
)
from tasks.params import Params, read_params
from tasks.steps import count_classify_steps, count_reference_steps, count_train_steps
from tasks.summary import COLUMNS, SHORT, SUMMARY, read_metrics, summarise_run
from tasks.workspace import Workspace, replace_whole

PAGE = "report.html"
KEPT = f"reports/{PAGE}"
_INDEX = "pictures.json"  # as tasks.tiles writes it
TEMPLATES = Path(__file__).with_name("templates")
_RANKS = {
    "iou": {"best": "Best", "median": "Median", "worst": "Worst"},
    "disagreement": {"best": "Most agreement", "median": "Median", "worst": "Least agreement"},
}


def build_page(
    params: Params, found: Mapping[str, Any], workspace: Workspace, *, about: Part | None = None
) -> str:
    """Build the page out of a run's numbers and tiles.

    Parameters
    ----------
    params : Params
    found : mapping
        All metrics, as :func:`tasks.summary.read_metrics` reads them.
    workspace : Workspace
        Holds the panels of the last round.
    about : dict, optional
        What :func:`describe_run` tells; left out, the page depends on params and results alone.

    Returns
    -------
    str
        HTML.
    """
    summary = summarise_run(found)
    folder = workspace.path(f"data/rounds/{params.round_keys[-1]}/panels")
    pictures = _read_pictures(folder)
    page = _open_templates().get_template("report.html.j2")
    return page.render(
        data=params.source.name,
        run=f"{params.source.name}-r{len(params.rounds)}",
        rounds=len(params.rounds),
        counts=found["ingest"].get("pictures", {}),
        num_classes=len(found["ingest"].get("classes", [])),
        available=summary["available"],
        headline=describe_headline(found, summary, pictures),
        columns=[{"short": short, "name": name} for short, name in zip(SHORT, COLUMNS, strict=True)],
        tables=list_tables(summary),
        classes=list_classes(found),
        quality=list_quality(found),
        cues=found["cues"],
        charts=list_charts(found),
        measure=pictures.get("measure"),
        num_ranked=len(pictures.get("pictures", [])),
        ranked=_list_ranked(pictures, folder),
        steps=[_fill(step, pictures, folder) for step in pictures.get("steps", [])],
        changes=list_changes(_list_values(params, machine=about is not None)),
        oracle=found["baseline"] if summary["available"] else None,
        about=about,
    )


def write_page(
    params: Params, workspace: Workspace, place: Path | None = None, *, stale: Sequence[str] = ()
) -> Path:
    """Write the whole page at once; return where.

    Parameters
    ----------
    params : Params
    workspace : Workspace
    place : Path, optional
        ``report.html`` in the workspace, if left out.
    stale : sequence of str
        Stages whose results are not those of the params, which the page then says.

    Raises
    ------
    UserError
        Numbers of a stage are missing; the message names the command that makes them.
    """
    place = place or workspace.path(PAGE)
    found = read_metrics(workspace, params.round_keys)
    text = build_page(params, found, workspace, about=describe_run(params, workspace, found, stale=stale))
    with replace_whole(place, mark=str(os.getpid())) as partial:
        partial.write_text(text, encoding="utf-8")
    return place


def describe_run(
    params: Params, workspace: Workspace, found: Mapping[str, Any], *, stale: Sequence[str] = ()
) -> Part:
    """Describe what the results themselves do not tell: when, at which commit, how long, where else it is.

    Returns
    -------
    dict
        ``made``, ``commit``, ``changed`` (code differs from the commit), ``timings``, ``untimed``, ``total``,
        ``links`` with their texts, ``run_id``, ``experiment``, ``stale``.
    """
    facts = recall(workspace, STUDY)
    place = workspace.path(SUMMARY)
    made = facts.get("made") or datetime.fromtimestamp(place.stat().st_mtime).astimezone().isoformat()
    timings = _list_timings(params, workspace, found)
    return {
        "made": datetime.fromisoformat(made).strftime("%Y-%m-%d %H:%M %z").replace("+0000", "UTC"),
        "commit": facts.get("commit"),
        "changed": bool(facts.get("changed")),
        "experiment": facts.get("experiment"),
        "timings": [timing for timing in timings if timing["time"]],
        "untimed": [timing["stage"] for timing in timings if not timing["time"]],
        "total": _spell_time(sum(timing["seconds"] or 0 for timing in timings)),
        "links": _list_links(facts),
        "run_id": facts.get("run_id"),
        "stale": list(stale),
    }


def locate_mlflow(facts: Mapping[str, Any], *, artifact: str = "") -> str | None:
    """Locate the run's page in MLflow, or that of one of its files, where a server shows it.

    Parameters
    ----------
    facts : mapping
        ``url``, ``experiment_id`` and ``run_id``, or nothing.
    artifact : str
        Name of a file in MLflow.
    """
    if not (facts.get("url") and facts.get("run_id")):
        return None
    place = f"{facts['url']}/#/experiments/{facts['experiment_id']}/runs/{facts['run_id']}"
    place += f"/artifacts/{artifact}" if artifact else ""
    return f"{place}?workflowType=machine_learning"  # else MLflow's menus are those for language models


def read_ranked(root: Path) -> list[Part]:
    """Read the ranked pictures of the last round, group by group, their tiles as data URIs."""
    last = read_params(root / "params.yaml").round_keys[-1]
    folder = root / "data" / "rounds" / last / "panels"
    return _list_ranked(_read_pictures(folder), folder)


def _open_templates() -> Environment:
    return Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _list_values(params: Params, *, machine: bool) -> dict[str, Any]:
    """List what is compared with the defaults; the machine's matters are no part of a result."""
    sections = {
        "source": params.source,
        "ingest": params.ingest,
        "backbone": params.backbone,
        "classify": params.classify,
        "cams": params.cams,
        "cues": params.cues,
        "train": params.train,
        "retrain": params.retrain,
        "relabel": params.relabel,
        "refine": params.refine,
        "evaluate": params.evaluate,
        "reference": params.reference,
        "report": params.report,
        **({"compute": params.compute} if machine else {}),
    }
    values = {name: section.model_dump(mode="json") for name, section in sections.items()}
    return {**values, "rounds": list(params.rounds)}


def _read_pictures(folder: Path) -> dict[str, Any]:
    """Read what panels say of themselves; nothing where an older version made them, or none are there."""
    try:
        return dict(json.loads((folder / _INDEX).read_text(encoding="utf-8")))
    except FileNotFoundError:
        return {}


def _list_ranked(pictures: Part, folder: Path) -> list[Part]:
    names = _RANKS.get(pictures.get("measure", ""), {})
    groups = pictures.get("ranked", {})
    return [
        {"name": name, "pictures": [_fill(picture, pictures, folder) for picture in groups[group]]}
        for group, name in names.items()
        if groups[group]
    ]


def _fill(picture: Part, pictures: Part, folder: Path) -> Part:
    """Put its tiles into a picture, as data URIs, and what to say of them."""
    tiles = [
        {
            **tile,
            "source": "data:image/webp;base64,"
            + base64.b64encode((folder / tile["file"]).read_bytes()).decode(),
            "alt": say_tile(tile, picture["id"]),
        }
        for tile in picture["tiles"]
    ]
    return {**picture, "tiles": tiles, "legend": list_legend(picture["tiles"], pictures["colours"])}


def _list_timings(params: Params, workspace: Workspace, found: Mapping[str, Any]) -> list[Part]:
    """List how long each stage took when its result was made here, and pictures a second of it."""
    counts = found["ingest"].get("pictures", {})
    train, val = counts.get("train", 0), counts.get("val", 0)
    worked = {
        "ingest": train + val,
        "classify": params.classify.batch_size * count_classify_steps(params, train),
        **dict.fromkeys(("cams", "cues", "baseline", "relabel", "refine"), train),
        "evaluate": val,
        "reference": params.train.batch_size * count_reference_steps(params, train),
    }
    labels = ["ingest", "classify", "cams", "cues", "baseline"]
    for key in params.round_keys:
        labels += [f"{stage}@{key}" for stage in ("train", "relabel", "refine", "evaluate")]
        worked[f"train@{key}"] = params.train.batch_size * count_train_steps(params, key, train)
    if found["reference"].get("available"):
        labels.append("reference")
    timings: list[Part] = []
    for label in labels:
        facts = recall(workspace, label)
        seconds = facts.get("seconds")
        pictures = worked.get(label, worked.get(label.partition("@")[0], 0))
        timings.append(
            {
                "stage": label,
                "seconds": seconds,
                "time": None if seconds is None else _spell_time(seconds),
                "speed": f"{pictures / seconds:.3g}" if seconds and pictures else None,
                "machine": facts.get("machine"),
            }
        )
    longest = max((timing["seconds"] or 0 for timing in timings), default=0)
    return [{**one, "share": 100 * (one["seconds"] or 0) / longest if longest else 0} for one in timings]


def _list_links(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    links = [("MLflow: curves, pictures, model", locate_mlflow(facts))]
    links.append(("Prefect: stages and logs of the run", facts.get("flow_run_url")))
    return [(text, link) for text, link in links if link]


def _spell_time(seconds: float) -> str:
    """Spell a duration.

    Examples
    --------
    >>> _spell_time(3.21), _spell_time(75), _spell_time(7260)
    ('3.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"
