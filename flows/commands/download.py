"""``dsrg download``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import list_examples, open_group
from tasks import console

app = open_group(name="download", no_args_is_help=True, help="Fetch published data sets.")


@app.callback()
def group() -> None:
    """Fetch published data sets."""


@app.command(
    epilog=list_examples(
        ("dsrg download voc data-sets", "2 GB, to data-sets/VOCdevkit/VOC2012"),
        ("dsrg run data-sets/VOCdevkit", "then"),
    )
    + "\n\nThe lists and masks that the field adds (trainaug, SBD) are not part of it: see docs/data.md."
)
def voc(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to put it; made if it is not there.")],
) -> None:
    """Fetch PASCAL VOC 2012 through torchvision."""
    from tasks.download import download_voc

    year = download_voc(folder.expanduser())
    console.say(f"{year}\nNext: dsrg check {year}")
