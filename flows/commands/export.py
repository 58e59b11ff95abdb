"""``dsrg export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from flows.commands.options import Json, Root, list_examples, open_group
from tasks import console

app = open_group(name="export", no_args_is_help=True, help="Write labels and models for other programs.")


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
