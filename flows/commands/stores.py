"""``dsrg stores``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.commands.options import Json, Root, list_examples, open_group
from tasks import console

if TYPE_CHECKING:
    from tasks.params import Params
    from tasks.stores import FarStore

app = open_group(
    name="stores", no_args_is_help=True, help="What lies under the URL of compute.stores, of all runs."
)


@app.command(name="list", epilog=list_examples(("dsrg stores list", ""), ("dsrg stores list --json", "")))
def list_stores(json: Json = False, root: Root = Path()) -> None:
    """List stores, the oldest first, and what names them."""
    from tasks.params import read_params

    stores = _list(root, read_params(root / "params.yaml"))
    if json:
        console.print_json(
            [
                {"url": s.url, "written": s.written.isoformat(), "bytes": s.bytes, "named_by": s.named_by}
                for s in stores
            ]
        )
        return
    _show(stores)


@app.command(
    epilog=list_examples(
        ("dsrg stores prune", "what would be removed"),
        ("dsrg stores prune --yes", "remove it"),
        ("dsrg stores prune --days 0 --yes", "however new it is"),
    )
)
def prune(
    days: Annotated[
        float, typer.Option(min=0, help="Only what is older: other clones may be at work there.")
    ] = 7,
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, they are only listed.")] = False,
    root: Root = Path(),
) -> None:
    """Remove stores that nothing names: neither this project, nor its DVC cache, nor work to go on with.

    Clones with caches of their own, and DVC's remote, may name stores that are unknown here.
    """
    from tasks.params import read_params
    from tasks.stores import find_unnamed, remove

    params = read_params(root / "params.yaml")
    old = find_unnamed(_list(root, params), days=days)
    if not old:
        console.say(f"nothing to remove: no store older than {days:g} days that nothing names")
        return
    _show(old)
    if yes:
        remove(params, old)
        console.say(f"removed {len(old)} of them")
    else:
        console.say("nothing was removed: dsrg stores prune --yes")


def _list(root: Path, params: Params) -> list[FarStore]:
    from flows.versioning import prepare
    from flows.versioning_folders import find_cache
    from tasks.stores import list_far

    prepare(root)
    return list_far(params, root, find_cache(root))


def _show(stores: list[FarStore]) -> None:
    rows = [
        (
            s.url,
            f"{s.written:%Y-%m-%d %H:%M}",
            f"{s.bytes / 1e6:.1f} MB" if s.objects else "unfinished",
            s.named_by or "nothing",
        )
        for s in stores
    ]
    console.print_table("", ["store", "written (UTC)", "size", "named by"], rows)
