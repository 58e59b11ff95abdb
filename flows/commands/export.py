"""``dsrg export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands.options import Json, Root, list_examples, open_group
from tasks import console

app = open_group(name="export", no_args_is_help=True, help="Write labels and models for other programs.")


@app.command(
    name="labels",
    epilog=list_examples(
        ("dsrg export labels --format voc --out voc", "the last round's pseudo-labels, palette PNGs"),
        ("dsrg export labels --format coco --segmentation polygons --out coco", "for a labelling tool"),
        ("dsrg export labels --format nnunet --out nnUNet_raw/Dataset501_Birds", ""),
        ("dsrg export labels --what cues --format png --unlabelled keep --out cues", ""),
        ("dsrg export labels --labels restored/main/round-1/pseudo_labels.zarr --format voc --out old", ""),
    )
    + "\n\nLabels have the size of the original pictures. docs/labels.md says what each program wants.",
)
def export_labels(
    format_: Annotated[
        Literal["voc", "coco", "png", "yolo", "nnunet", "zarr"],
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="voc, coco, png (for mmsegmentation), yolo (for Ultralytics), nnunet or zarr.",
        ),
    ],
    out: Annotated[Path, typer.Option(metavar="DIR", help="A new folder, or one that the same began.")],
    what: Annotated[
        Literal["pseudo-labels", "seeds", "cues"], typer.Option(help="Which labels.")
    ] = "pseudo-labels",
    round_: Annotated[
        str | None, typer.Option("--round", metavar="R", help="The last, if left out; cues have none.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(metavar="PATH", help="A store that `dsrg labels restore` brought back.")
    ] = None,
    unlabelled: Annotated[
        Literal["keep", "background", "nearest"],
        typer.Option(help="Pixels without a label: ignored (255), background, or the nearest label."),
    ] = "keep",
    images: Annotated[
        Literal["copy", "link", "none"], typer.Option(help="The original pictures beside the labels.")
    ] = "copy",
    segmentation: Annotated[
        Literal["rle", "polygons"],
        typer.Option(help="coco: exact masks, one per class; or a polygon for each region."),
    ] = "rle",
    simplify: Annotated[
        float, typer.Option(min=0, metavar="PIXELS", help="Polygons may leave the border so far; 0: exact.")
    ] = 1.0,
    min_area: Annotated[
        int, typer.Option(min=0, metavar="PIXELS", help="Leave out polygons of smaller regions.")
    ] = 0,
    json: Json = False,
    root: Root = Path(),
) -> None:
    """Write pseudo-labels, seeds or cues of the training pictures in another program's format."""
    from tasks.export_labels import Settings, export_labels, print_summary
    from tasks.params import read_params
    from tasks.workspace import Workspace

    settings = Settings(
        format=format_,
        what=what,
        round_key=round_,
        labels=labels,
        unlabelled=unlabelled,
        images=images,
        segmentation=segmentation,
        simplify=simplify,
        min_area=min_area,
    )
    with console.keep_stdout_free(json):
        summary = export_labels(read_params(root / "params.yaml"), Workspace(root), out, settings)
    if json:
        console.print_json(summary)
    else:
        print_summary(summary)


@app.command(
    name="model",
    epilog=list_examples(
        ("dsrg export model --out birds.onnx", "the last round's segmenter, for onnxruntime"),
        ("dsrg export model --round 1 --out birds.pt", "TorchScript"),
        ("dsrg export model --format exported --out birds.pt2", "a torch.export program"),
    )
    + "\n\nThe file is run on pictures of this project and kept only if more than 99.9% of the pixels have\n"
    "the class that torch gives them (else exit status 1). docs/predict-and-export.md tells how to use it.",
)
def export_model(
    out: Annotated[Path, typer.Option(metavar="FILE", help="A .onnx, .pt or .pt2 file.")],
    format_: Annotated[
        Literal["onnx", "torchscript", "exported"] | None,
        typer.Option("--format", help="What to write.", show_default="by the suffix of --out"),
    ] = None,
    round_: Annotated[str | None, typer.Option("--round", metavar="R", help="The last, if left out.")] = None,
    json: Json = False,
    root: Root = Path(),
) -> None:
    """Write a segmenter as ONNX, TorchScript or ExportedProgram, normalisation inside."""
    from tasks.export_model import export_model, print_summary

    with console.keep_stdout_free(json):
        summary = export_model(root, out, kind=format_, round_key=round_)
        if not json or not summary["kept"]:
            print_summary(summary)
    if json:
        console.print_json(summary)
    if not summary["kept"]:
        raise typer.Exit(1)
