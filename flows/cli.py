"""The ``dsrg`` command: change params, run the flow, show what came out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from tasks import console
from tasks.errors import UserError, describe_os_error

EXAMPLES = """
Examples:

  dsrg run                              what params.yaml says; the first time, drawn pictures

  dsrg run ~/birds                      your own pictures: a folder with labels.csv, or one folder per class

  dsrg run --rounds 3 --set train.lr=0.01

  dsrg stages                           what is up to date, what would run

  dsrg table                            the numbers of the last run

  dsrg labels restore birds-r2          the pseudo-labels of an earlier run, copied to restored/
"""

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Pixel labels and a segmenter from image-level labels.\n" + EXAMPLES,
)
Root = Annotated[Path, typer.Option(help="Folder with params.yaml and dvc.yaml.", show_default="this one")]


@app.command(
    epilog="Changes are written to params.yaml, comments kept. Stages already done are not run again."
)
def run(
    path: Annotated[Path | None, typer.Argument(help="Folder of pictures of your own.")] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, max=99, help="Rounds of train, relabel, refine.")
    ] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a param; may be repeated.")
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for another run in this workspace.")] = False,
    root: Root = Path(),
) -> None:
    """Run the whole pipeline."""
    from flows.params_file import edit_params
    from flows.runner import run_flow
    from flows.versioning import prepare
    from tasks.locking import hold_workspace

    prepare(root)
    try:
        with hold_workspace(root, "dsrg run", wait=wait or None) as lock:
            edit_params(root, folder=path, rounds=rounds, settings=set_ or [])
            status = run_flow(root, lock=lock)
    except KeyboardInterrupt:
        console.fail("stopped; what is finished was kept: the same command continues there")
        status = 130
    if status:
        raise typer.Exit(status)
    _show_results(root)


@app.command(name="rounds")
def set_rounds(
    count: Annotated[int, typer.Argument(min=1, max=99, help="How many.")], root: Root = Path()
) -> None:
    """Write a number of rounds into params.yaml, without running anything."""
    from flows.params_file import edit_params

    edit_params(root, rounds=count)
    console.say(f"{count} rounds. Next: dsrg run")


@app.command()
def wait(root: Root = Path()) -> None:
    """Wait until nobody works in this workspace: ``dsrg wait && dvc repro``."""
    from tasks.locking import wait_until_free

    wait_until_free(root)


@app.command()
def stages(root: Root = Path()) -> None:
    """List the stages, and which of them would run."""
    from flows.versioning import describe_state, list_stages, prepare
    from tasks.__main__ import STAGES
    from tasks.params import read_params

    read_params(root / "params.yaml")
    prepare(root)
    about = {stage.name: stage.about for stage in STAGES}
    rows = [(name, describe_state(root, name), about[name.split("@")[0]]) for name in list_stages(root)]
    console.print_table("", ["stage", "state", "what it does"], rows)


@app.command()
def serve(
    limit: Annotated[int, typer.Option(min=1, help="Runs that go at once; others wait in line.")] = 1,
    port: Annotated[int, typer.Option(help="Where Prefect's server is started if none is found.")] = 4200,
    mlflow_port: Annotated[int, typer.Option(help="The same for MLflow's.")] = 5000,
    work_pool: Annotated[
        str | None, typer.Option(help="Only register, for workers of this work pool, and return.")
    ] = None,
    root: Root = Path(),
) -> None:
    """Open the Prefect UI and run what is started there."""
    from flows.serve import serve as serve_project

    serve_project(root, limit=limit, port=port, mlflow_port=mlflow_port, work_pool=work_pool)


@app.command()
def table(root: Root = Path()) -> None:
    """Print the numbers of the last run."""
    _show_results(root)


labels = typer.Typer(no_args_is_help=True, help="Bring pseudo-labels of earlier runs back.")
app.add_typer(labels, name="labels")


@labels.command(name="list")
def list_labels(root: Root = Path()) -> None:
    """List the runs and rounds whose pseudo-labels can be brought back."""
    from flows.versioning import prepare
    from flows.versioning_labels import list_labels

    prepare(root)
    rows = [
        (run.name, ", ".join(run.rounds), "yes" if run.here == run.rounds else f"{len(run.here)} of them")
        for run in list_labels(root)
    ]
    console.print_table("", ["run", "rounds", "in the cache here"], rows)


@labels.command(name="restore")
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


def _show_results(root: Path) -> None:
    from flows.results import list_panels
    from tasks.report import SUMMARY, list_rows, print_scores
    from tasks.tracking_places import locate_pages
    from tasks.workspace import Workspace

    print_scores(list_rows(Workspace(root).read_json(SUMMARY, stage="report")))
    panels = list_panels(root)
    if panels:
        console.say(f"panels   {', '.join(str(panel) for panel in panels)}")
    console.say(f"numbers  {root / SUMMARY}, {root / 'reports' / 'summary.md'}")
    command = f"mlflow ui --backend-store-uri sqlite:///{root.resolve() / 'mlflow.db'}"
    console.say(f"compare  {locate_pages() or command}")


def guard(command: Callable[[], Any]) -> int:
    """Call `command`; show an error that a user can mend in one line; return the exit status."""
    try:
        command()
    except UserError as error:
        console.fail(str(error))
        return 2
    except OSError as error:
        message = describe_os_error(error)
        if message is None:
            raise
        console.fail(message)
        return 2
    return 0


def main() -> None:
    """Run the command line."""
    sys.exit(guard(app))


if __name__ == "__main__":
    main()
