"""``dsrg report``: the last run as one page."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import Json, Root, list_examples, open_group
from tasks import console
from tasks.errors import UserError

app = open_group()


@app.command(
    epilog=list_examples(
        ("dsrg report", "writes report.html"),
        ("dsrg report --open", "and shows it"),
        ("dsrg report --out birds.html", "a copy to hand on"),
        ("dsrg report --json", "where the page and the run's other pages are"),
    )
    + "\n\nThe page needs no other file, no network and no script. No stage is run: what is on disk is shown."
)
def report(
    out: Annotated[
        Path | None, typer.Option(help="Write the page there.", show_default="report.html in the project")
    ] = None,
    open_: Annotated[bool, typer.Option("--open", help="Show it in a browser.")] = False,
    json: Json = False,
    root: Root = Path(),
) -> None:
    """Write the report of the last run: one HTML page with numbers, pictures, curves, times and links."""
    from tasks.journal import STUDY, recall
    from tasks.page import KEPT, PAGE, locate_mlflow, write_page
    from tasks.params import read_params
    from tasks.study import list_stale
    from tasks.workspace import Workspace

    workspace = Workspace(root)
    params = read_params(workspace.path("params.yaml"))
    if out is not None:
        out = (out / PAGE if out.is_dir() else out).resolve()
        if out.is_relative_to(workspace.path("reports")):
            raise UserError(f"`--out` must not lie in `reports/`, which DVC keeps, got `{out}`")
    stale = list_stale(params, workspace)
    page = write_page(params, workspace, out, stale=stale)
    if stale:
        console.warn(
            f"results are not those of params.yaml ({', '.join(stale)}), which the page says: dvc repro"
        )
    facts = recall(workspace, STUDY)
    if json:
        kept = workspace.path(KEPT)
        console.print_json(
            {
                "page": str(page),
                "kept_by_dvc": str(kept) if kept.is_file() else None,
                "mlflow": locate_mlflow(facts),
                "mlflow_run": facts.get("run_id"),
                "prefect": facts.get("flow_run_url"),
                "experiment": facts.get("experiment"),
                "stale": stale,
            }
        )
    else:
        console.say(str(page))
    if open_ and not webbrowser.open(page.as_uri()):
        console.warn(f"no browser found: open {page.as_uri()}")
