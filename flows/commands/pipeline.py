"""``dsrg run``, and what goes with it: rounds, wait, join, stages, table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import Json, Root, list_examples, open_group
from tasks import console

app = open_group()


@app.command(
    epilog=list_examples(
        ("dsrg run", "what params.yaml says"),
        ("dsrg run ~/birds", "your own pictures"),
        ("dsrg run ~/birds --preset quick", "a first look at them"),
        ("dsrg run s3://bucket/birds", "on an object store"),
        ("dsrg run --rounds 3 --set train.lr=0.01", ""),
        ("dsrg run --wait", "after the run that is going on"),
    )
    + "\n\nChanges are written to params.yaml, comments kept. Stages already done are not run again."
)
def run(
    path: Annotated[
        str | None, typer.Argument(help="Folder of pictures of your own, or URL (s3://BUCKET/FOLDER).")
    ] = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME", help="A set of params: see dsrg presets.")
    ] = None,
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
    from tasks.lifetime import Terminated, raise_on_sigterm
    from tasks.locking import hold_workspace

    prepare(root)
    raise_on_sigterm()
    try:
        with hold_workspace(root, "dsrg run", wait=wait or None) as lock:
            edit_params(root, folder=path, preset=preset, rounds=rounds, settings=set_ or [])
            status = run_flow(root, lock=lock)
    except KeyboardInterrupt as stop:
        console.fail("stopped; what is finished was kept: the same command continues there")
        status = 143 if isinstance(stop, Terminated) else 130
    if status:
        raise typer.Exit(status)
    _show_results(root)


@app.command(name="rounds", epilog=list_examples(("dsrg rounds 3", "")))
def set_rounds(
    count: Annotated[int, typer.Argument(min=1, max=99, help="How many.")], root: Root = Path()
) -> None:
    """Write a number of rounds into params.yaml, without running anything."""
    from flows.params_file import edit_params

    edit_params(root, rounds=count)
    console.say(f"{count} rounds. Next: dsrg run")


@app.command(
    epilog=list_examples(
        ("dsrg presets", "what there is, what it needs"),
        ("dsrg presets quick", "what it would change here"),
        ("dsrg run ~/birds --preset quick", ""),
    )
)
def presets(
    name: Annotated[str | None, typer.Argument(help="Show what this one would change.")] = None,
    json: Json = False,
    root: Root = Path(),
) -> None:
    """Show the sets of params that ``dsrg run --preset`` takes."""
    from tasks.params import read_params
    from tasks.presets import list_presets, read_preset

    if name is None:
        found = {known: read_preset(root, known) for known in list_presets(root)}
        if json:
            console.print_json({known: preset.model_dump() for known, preset in found.items()})
            return
        for known, preset in found.items():
            console.say(f"{known}\n  for      {preset.about}")
            console.say(f"  needs    {preset.needs}\n  reached  {preset.numbers}\n")
        return
    preset = read_preset(root, name)
    changes = preset.list_changes(read_params(root / "params.yaml"))
    if json:
        console.print_json({**preset.model_dump(), "changes": changes})
        return
    console.say(f"{name}: {preset.about}\nneeds    {preset.needs}\nreached  {preset.numbers}")
    rows = [(key, str(old), str(new)) for key, (old, new) in changes.items()]
    console.print_table("" if rows else "nothing to change", ["param", "here", name], rows)


@app.command(epilog=list_examples(("dsrg wait && dvc repro", "")))
def wait(root: Root = Path()) -> None:
    """Wait until nobody works in this workspace: ``dsrg wait && dvc repro``."""
    from tasks.locking import wait_until_free

    wait_until_free(root)


@app.command(
    epilog=list_examples(
        ("dsrg join", "on every further machine; `compute.nodes` says how many there are"),
        ("dsrg join --once", "for one training"),
    )
)
def join(
    once: Annotated[bool, typer.Option("--once", help="End with the first training.")] = False,
    root: Root = Path(),
) -> None:
    """Train along with the stages of another machine that shares this folder."""
    from tasks.join import main

    status = main(["--root", str(root), *(["--once"] if once else [])])
    if status:
        raise typer.Exit(status)


@app.command(epilog=list_examples(("dsrg stages", ""), ("dsrg stages --json", "")))
def stages(json: Json = False, root: Root = Path()) -> None:
    """List the stages, and which of them would run."""
    from flows.versioning import describe_state, list_stages, prepare
    from tasks.__main__ import STAGES
    from tasks.params import read_params

    read_params(root / "params.yaml")
    prepare(root)
    about = {stage.name: stage.about for stage in STAGES}
    rows = [(name, describe_state(root, name), about[name.split("@")[0]]) for name in list_stages(root)]
    if json:
        console.print_json([dict(zip(("stage", "state", "about"), row, strict=True)) for row in rows])
    else:
        console.print_table("", ["stage", "state", "what it does"], rows)


@app.command(epilog=list_examples(("dsrg table", ""), ("dsrg table --json", "")))
def table(json: Json = False, root: Root = Path()) -> None:
    """Print the numbers of the last run."""
    if json:
        from tasks.summary import SUMMARY
        from tasks.workspace import Workspace

        console.print_json(Workspace(root).read_json(SUMMARY, stage="report"))
    else:
        _show_results(root)


def _show_results(root: Path) -> None:
    from flows.results import list_panels
    from tasks.page import PAGE
    from tasks.summary import SUMMARY, print_scores
    from tasks.tracking_places import locate_pages
    from tasks.workspace import Workspace

    print_scores(Workspace(root).read_json(SUMMARY, stage="report"))
    if (root / PAGE).exists():
        console.say(f"report   {root / PAGE}")
    panels = list_panels(root)
    if panels:
        console.say(f"panels   {', '.join(str(panel) for panel in panels)}")
    console.say(f"numbers  {root / SUMMARY}, {root / 'reports' / 'summary.md'}")
    command = f"mlflow ui --backend-store-uri sqlite:///{root.resolve() / 'mlflow.db'}"
    console.say(f"compare  {locate_pages() or command}")
