"""``dsrg check``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import Json, Root, list_examples, open_group
from tasks import console

app = open_group()


class Kind(StrEnum):
    """Kinds of source that a folder can be."""

    FOLDER = "folder"
    VOC = "voc"
    COCO = "coco"


class ImageLabels(StrEnum):
    """What image labels can be taken from."""

    XML = "xml"
    MASKS = "masks"


@app.command(
    epilog=list_examples(
        ("dsrg check ~/birds", "a folder of your own"),
        ("dsrg check", "what params.yaml names"),
        ("dsrg check VOCdevkit --image-labels masks", ""),
        ("dsrg check coco --categories person,animal", "two classes, one of them a supercategory"),
        ("dsrg check ~/birds --json > birds.json", "everything that is found, for scripts"),
    )
    + "\n\nExit status: 0 ingest would take it; 1 it would not, and every file that is wrong is named."
)
def check(
    path: Annotated[
        str | None,
        typer.Argument(help="Folder of pictures, or URL.", show_default="source.path of params.yaml"),
    ] = None,
    kind: Annotated[
        Kind | None,
        typer.Option(help="What the folder is.", show_default="by what lies in it"),
    ] = None,
    categories: Annotated[
        str | None, typer.Option(metavar="A,B", help="coco: categories or supercategories to learn.")
    ] = None,
    image_labels: Annotated[
        ImageLabels | None, typer.Option(help="voc: what image labels are taken from.")
    ] = None,
    json: Json = False,
    root: Root = Path(),
) -> None:
    """Look through pictures before anything runs: what would be made of them, what is wrong, file by file.

    Nothing is written. Every picture and mask is decoded, as ingest does it.
    """
    from dsrg.places import is_remote, parse_place
    from tasks.check import check, choose_source
    from tasks.check_page import show_report
    from tasks.params import read_params

    params = choose_source(
        read_params(root / "params.yaml"),
        _find_place(path) if path else None,
        kind=kind,
        categories=[name.strip() for name in (categories or "").split(",") if name.strip()],
        image_labels=image_labels,
    )
    place = parse_place(params.source.path)
    with console.keep_stdout_free(json):
        report = check(params, place if path or is_remote(place) else root / place)
    if json:
        console.print_json(report)
    else:
        show_report(report, params)
    if report["problems"]:
        raise typer.Exit(1)


def _find_place(path: str) -> Path:
    from dsrg.places import is_remote, parse_place

    place = parse_place(path)
    return place if is_remote(place) else place.expanduser().resolve()
