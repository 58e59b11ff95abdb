"""``dsrg labels``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import Json, Root, list_examples, open_group
from tasks import console

app = open_group(name="labels", no_args_is_help=True, help="Bring pseudo-labels of earlier runs back.")


@app.command(name="list", epilog=list_examples(("dsrg labels list", ""), ("dsrg labels list --json", "")))
def list_labels(json: Json = False, root: Root = Path()) -> None:
    """List the runs and rounds whose pseudo-labels can be brought back."""
    from flows.versioning import prepare
    from flows.versioning_labels import list_labels

    prepare(root)
    runs = list_labels(root)
    if json:
        console.print_json([{"run": run.name, "rounds": run.rounds, "here": run.here} for run in runs])
        return
    rows = [
        (run.name, ", ".join(run.rounds), "yes" if run.here == run.rounds else f"{len(run.here)} of them")
        for run in runs
    ]
    console.print_table("", ["run", "rounds", "in the cache here"], rows)


@app.command(
    name="restore",
    epilog=list_examples(
        ("dsrg labels restore birds-r2-3f9c", "its last round, to restored/"),
        ("dsrg labels restore main --round 1 --out old", ""),
    ),
)
def restore_labels(
    run: Annotated[str, typer.Argument(help="Experiment (dvc exp list), branch, tag or commit.")],
    round_: Annotated[str | None, typer.Option("--round", metavar="R", help="The last, if left out.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Where to put them.", show_default="restored/RUN/round-R"),
    ] = None,
    root: Root = Path(),
) -> None:
    """Copy the pseudo-labels of a run to a place of their own; ``data/`` stays as it is."""
    from flows.versioning import prepare
    from flows.versioning_labels import restore_labels

    prepare(root)
    console.say(f"restored {restore_labels(root, run, round_key=round_, folder=out)}")
