"""What a finished run's page in the Prefect UI tells without opening a log.

Telling is not the work: where Prefect's server is down, nothing is told, once in a while it is tried
again, and the stages go on.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from flows.reach import find_api, is_there
from flows.results import encode_panel, list_panels
from tasks import console
from tasks.page import PAGE, locate_mlflow
from tasks.workspace import WORK

RETRY_SECONDS = 60.0
PLOT_SIDE = 900
_SHOWN = 2  # pictures of each rank
_silent_until = 0.0
_said = False


def tell(action: Callable[[], Any]) -> Any:
    """Do something that needs Prefect's server; where it does not answer, say so once and go on.

    Returns
    -------
    object
        What `action` returned; None where it failed, or was left out because the server did not
        answer less than `RETRY_SECONDS` ago.
    """
    global _silent_until
    if time.monotonic() < _silent_until:
        return None
    try:
        _probe()
        return action()
    except Exception as error:  # noqa: BLE001 - whatever the client raises must not cost a training
        say_once(str(error))
        _silent_until = time.monotonic() + RETRY_SECONDS
        return None


def say_once(reason: str) -> None:
    """Say that Prefect's server does not answer, unless that was said before."""
    global _said
    if not _said:
        _said = True
        console.warn(f"Prefect's server does not answer, the run goes on without it: {reason}")


def _probe() -> None:
    """Ask whether the server is there at all: its client would find out only after a minute of retries."""
    address = find_api()
    if not is_there(address):
        raise ConnectionError(f"nothing answers at {address}")


class ProgressArtifact:
    """A bar on the run's page, made when there is something to show.

    Parameters
    ----------
    stage : str
        As DVC names it.
    """

    def __init__(self, stage: str) -> None:
        self._key = f"progress-{stage.replace('@', '-')}"
        self._artifacts: dict[str, Any] = {}

    def update(self, description: str, done: int, total: int) -> None:
        """Show that `done` of `total` are done."""
        percent = 100.0 * done / max(total, 1)
        artifact = self._artifacts.get(description)
        if artifact is None:
            self._artifacts[description] = tell(
                lambda: create_progress_artifact(progress=percent, key=self._key, description=description)
            )
        else:
            tell(lambda: update_progress_artifact(artifact, progress=percent))


def show_dashboard(stage: str, link: str) -> None:
    """Show where the dashboard of the cluster is that a stage is mapped over, as long as it runs."""
    key, about = f"cluster-{stage.replace('@', '-')}", f"Dask's dashboard, while {stage} runs"
    tell(lambda: create_link_artifact(link, key=key, link_text="dashboard", description=about))


def show_results(root: Path, *, experiment: str | None, tracked: Mapping[str, str]) -> None:
    """Show the table, the summary with its links, the report and the last round's panels, as artifacts.

    Prefect has no artifact that shows HTML: the report is a link to its page in MLflow, where a server
    shows it, and its ranked pictures.

    Parameters
    ----------
    root : Path
        Folder of the run.
    experiment : str or None
        Name of the DVC experiment that keeps the run.
    tracked : mapping
        Where MLflow keeps it: ``run_id``, ``experiment_id``, and ``url`` where its UI was named.
    """
    from tasks.summary import SUMMARY, list_rows
    from tasks.workspace import Workspace

    rows = list_rows(Workspace(root).read_json(SUMMARY, stage="report"))
    if rows:
        names = ("of", "mIoU %", "labelled only", "fg precision", "fg recall", "coverage", "of reference")
        table = [dict(zip(names, row, strict=True)) for row in rows]
        tell(lambda: create_table_artifact(table, key="scores", description="against the true masks"))
    lines = _list_links(root, experiment, tracked)
    page = "\n".join([*lines, "", _inline_plots(root / "reports" / "summary.md")])
    tell(lambda: create_markdown_artifact(page, key="summary", description="numbers, links, commands"))
    if link := locate_mlflow(tracked, artifact=PAGE):
        text = "the report: one page with everything"
        tell(lambda: create_link_artifact(link, key="report", link_text=text, description="in MLflow"))
    if ranked := _list_ranked(root):
        about = "best, median and worst val pictures"
        tell(lambda: create_markdown_artifact(ranked, key="ranked-pictures", description=about))
    for panel in list_panels(root):
        _show_picture(panel, key=f"panel-{panel.stem}", description=str(panel.relative_to(root)))


def show_overlays(folder: Path, *, count: int = 4) -> None:
    """Show the first overlays below a folder of predictions."""
    for number, picture in enumerate(sorted((folder / "overlays").rglob("*.jpg"))[:count]):
        _show_picture(picture, key=f"overlay-{number}", description=picture.name)


def _show_picture(picture: Path, *, key: str, description: str) -> None:
    # as markdown: the page of an image artifact writes the whole data URI below the picture
    page = f"![{description}]({encode_panel(picture)})"
    tell(lambda: create_markdown_artifact(page, key=key, description=description))


def _inline_plots(report: Path) -> str:
    """Read a report in markdown, its plots as data URIs: Prefect's page has no files beside it."""

    def inline(match: re.Match[str]) -> str:
        return f"![{match[1]}]({encode_panel(report.parent / match[2], max_side=PLOT_SIDE)})"

    return re.sub(r"!\[([^]]*)\]\(([\w.-]+\.png)\)", inline, report.read_text(encoding="utf-8"))


def _list_ranked(root: Path) -> str:
    """List the best, median and worst val pictures as a table in Markdown, two of each."""
    from tasks.page import read_ranked

    lines: list[str] = []
    for group in read_ranked(root):
        for picture in group["pictures"][:_SHOWN]:
            tiles = picture["tiles"]
            if not lines:
                titles = [tile["title"] for tile in tiles]
                lines = [f"| | {' | '.join(titles)} |", f"|---|{'---|' * len(titles)}"]
            name = re.sub(r"([\\`*_{}\[\]<>|])", r"\\\1", picture["id"])
            score = picture["iou"] if picture["iou"] is not None else 1 - picture["disagreement"]
            shown = " | ".join(f"![{tile['title']}]({tile['source']})" for tile in tiles)
            lines.append(f"| **{group['name']}** {100 * score:.1f} %<br>{name} | {shown} |")
    return "\n".join(lines)


def _list_links(root: Path, experiment: str | None, tracked: Mapping[str, str]) -> list[str]:
    lines = ["# Where it is", ""]
    if place := locate_mlflow(tracked):
        report = locate_mlflow(tracked, artifact=PAGE)
        lines.append(f"- MLflow: [parameters, curves, pictures, model]({place}), [the report]({report})")
    elif tracked:
        lines.append(f"- MLflow: run `{tracked['run_id']}`; `make ui` shows it")
    if (root / PAGE).exists() and WORK not in root.resolve().parts:  # else the folder ends with the run
        lines.append(f"- the report, one page with everything: `{(root / PAGE).resolve()}`")
    if experiment:
        lines += [
            f"- bring params and results of this run back: `dvc exp apply {experiment}`",
            f"- only its pseudo-labels: `dsrg labels restore {experiment}`",
            f"- compare it: `dvc exp show`, `dvc exp diff {experiment}`",
        ]
    return lines


def read_tracked(root: Path) -> dict[str, str]:
    """Read where MLflow keeps the run, as ``python -m tasks.study`` left it; empty where it did not."""
    place = root / ".work" / "tracked.json"
    return dict(json.loads(place.read_text(encoding="utf-8"))) if place.exists() else {}
