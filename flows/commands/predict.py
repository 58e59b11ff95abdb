"""``dsrg predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands.options import Json, Root, list_examples, open_group
from tasks import console

app = open_group()


@app.command(
    epilog=list_examples(
        ("dsrg predict photos --out masks", "a folder, by this project's last segmenter"),
        ("dsrg predict a.jpg b.jpg --out o --model birds.onnx", "anywhere, without torch"),
        ("dsrg predict photos --out o --model models:/birds@champion", "the best that MLflow knows"),
        ("dsrg predict aerial.tif --out o --tile 512 --overlap 128", "in overlapping tiles"),
        ("dsrg predict photos --out o --no-crf --scales 1 --no-flip", "the fastest way"),
    )
    + "\n\nWrites masks/ (palette PNGs of the pictures' sizes), overlays/, sheet.png, areas.csv,\n"
    "areas.json, classes.txt and legend.png. A stopped run continues. docs/predict-and-export.md tells more.",
)
def predict(
    images: Annotated[list[Path], typer.Argument(help="Pictures, and folders of pictures.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write to.")],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="segmenter.safetensors, a .onnx of `dsrg export model`, models:/NAME@champion, runs:/…, "
            "or a folder with MLmodel.",
            show_default="the last round's segmenter here",
        ),
    ] = None,
    crf: Annotated[bool, typer.Option("--crf/--no-crf", help="Sharpen the edges by a CRF.")] = True,
    scales: Annotated[
        str | None,
        typer.Option(metavar="S,S", help="Input scales that are averaged.", show_default="as it was scored"),
    ] = None,
    flip: Annotated[
        bool | None,
        typer.Option(
            "--flip/--no-flip", help="Average with the mirrored picture.", show_default="as it was scored"
        ),
    ] = None,
    max_side: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Larger pictures are drawn at this size, and enlarged.", show_default="1024"
        ),
    ] = None,
    tile: Annotated[
        int | None, typer.Option(metavar="N", help="Draw larger pictures in tiles of so many pixels.")
    ] = None,
    overlap: Annotated[
        int | None,
        typer.Option(metavar="N", help="Pixels that tiles share.", show_default="a quarter of a tile"),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Where the network runs.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Where pictures are drawn: none (here), local or tcp://HOST:PORT (Dask).",
            show_default="compute.cluster",
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Draw again what another model or other settings made.")
    ] = False,
    json: Json = False,
    root: Root = Path(),
) -> None:
    """Draw label maps of pictures."""
    from tasks.predict import Wishes, predict_pictures, print_summary

    wishes = Wishes(
        model=model,
        device=device,
        cluster=cluster,
        crf=crf,
        scales=_read_scales(scales),
        flip=flip,
        max_side=max_side,
        tile=tile,
        overlap=overlap,
        overwrite=overwrite,
    )
    try:
        with console.keep_stdout_free(json):
            summary = predict_pictures(images, out, wishes, root=root)
    except KeyboardInterrupt:
        console.fail("stopped; what is drawn was kept: the same command continues there")
        raise typer.Exit(130) from None
    if json:
        console.print_json(summary)
    else:
        print_summary(summary)


def _read_scales(text: str | None) -> tuple[float, ...] | None:
    from tasks.errors import UserError

    if text is None:
        return None
    try:
        return tuple(float(word) for word in text.replace(",", " ").split()) or None
    except ValueError:
        raise UserError(f"`--scales` must be numbers, such as 0.75,1,1.25, got {text!r}") from None
