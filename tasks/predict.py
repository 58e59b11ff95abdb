"""Label maps of pictures: ``dsrg predict``, or ``python -m tasks.predict FOLDER --out FOLDER``; no stage."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from dsrg.drawing import Style
from tasks import console
from tasks.changes import DEFAULTS
from tasks.errors import UserError, describe_os_error
from tasks.lifetime import end_with_starter
from tasks.params import Params, read_params
from tasks.predict_drawing import Drawing, draw_pictures
from tasks.predict_models import Model, find_model, open_network
from tasks.predict_outputs import Outputs
from tasks.predict_pictures import list_pictures
from tasks.prediction import describe_crf
from tasks.schema import NO_CLUSTER, Compute

MIN_PEAK = 0.01
MAX_SIDE = 1024


@dataclass(frozen=True)
class Wishes:
    """What a user asked for; None where nothing was said.

    Attributes
    ----------
    model : str or None
        See `tasks.predict_models.KINDS`; None is the workspace's.
    device : str or None
        ``auto``, ``cpu`` or ``cuda``; None is ``compute.device``.
    cluster : str or None
        ``none``, ``local`` or the address of a Dask scheduler; None is ``compute.cluster``.
    crf : bool
        Sharpen the edges by a CRF.
    scales, flip, max_side, tile, overlap
        See `dsrg.drawing.Style`.
    overwrite : bool
        Draw again what other settings made, or of other pictures.
    """

    model: str | None = None
    device: str | None = None
    cluster: str | None = None
    crf: bool = True
    scales: tuple[float, ...] | None = None
    flip: bool | None = None
    max_side: int | None = None
    tile: int | None = None
    overlap: int | None = None
    overwrite: bool = False


def predict_pictures(given: Sequence[Path], out: Path, wishes: Wishes, *, root: Path) -> dict[str, Any]:
    """Draw a label map and an overlay for pictures of any size.

    Pictures whose label map is there already are left, so that a stopped run continues.

    Parameters
    ----------
    given : sequence of Path
        Pictures, and folders of pictures.
    out : Path
        Folder for masks, overlays, legend, areas and sheet.
    wishes : Wishes
    root : Path
        Workspace whose last segmenter draws unless another model is named. What was not asked for is
        as the model says, else as ``evaluate`` in its ``params.yaml``, else as in `DEFAULTS`.

    Returns
    -------
    dict
        What was done, as for JSON.

    Raises
    ------
    UserError
        No pictures, no model, none of the pictures can be read, masks are there that were made
        otherwise, or the cluster cannot do it.
    """
    begun = time.monotonic()
    pictures = list_pictures(given, leave_out=out)
    compute = _choose_compute(wishes, root)
    with tempfile.TemporaryDirectory(prefix="dsrg-model-") as place:
        model = find_model(wishes.model, root=root, place=Path(place))
        elsewhere = compute.cluster != NO_CLUSTER
        network = None if elsewhere else open_network(model, compute, pictures=len(pictures))
        style = choose_style(wishes, model.settings, log_odds=model.log_odds, root=root)
        outputs = Outputs(out, model.classes, _list_settings(model, style))
        done = outputs.list_done(pictures, overwrite=wishes.overwrite)
        outputs.begin()
        left = [picture for picture in pictures if picture.name in done]
        for picture in left:
            outputs.take(picture)
        missing = [picture for picture in pictures if picture.name not in done]
        drawing = Drawing(model, style, compute, len(pictures), outputs.settings)
        unreadable = draw_pictures(missing, drawing, outputs, network=network)
    if len(unreadable) == len(pictures):
        raise UserError(f"none of {len(unreadable)} pictures can be read, such as `{unreadable[0]}`")
    outputs.finish(pictures)
    return {
        "out": str(out),
        "model": model.source,
        "drawn": len(pictures) - len(left) - len(unreadable),
        "left": len(left),
        "unreadable": unreadable,
        "classes": summarise_areas(outputs),
        "seconds": round(time.monotonic() - begun, 1),
    }


def choose_style(wishes: Wishes, settings: dict[str, Any], *, log_odds: float, root: Path) -> Style:
    """Choose how to draw: as asked, else as the model says, else ``params.yaml``, else `DEFAULTS`.

    Raises
    ------
    UserError
        A value is out of its range.
    """
    found: dict[str, Any] = {}
    if not {"scales", "flip", "crf"} <= settings.keys():
        params = _read_params(root)
        found = {**params.evaluate.model_dump(), "crf": describe_crf(params, log_odds)}
    found |= settings
    max_side = wishes.max_side or int(found.get("max_side", MAX_SIDE))
    overlap = wishes.overlap if wishes.overlap is not None else (wishes.tile or 0) // 4
    style = Style(
        scales=tuple(wishes.scales or found["scales"]),
        flip=bool(found["flip"] if wishes.flip is None else wishes.flip),
        crf=dict(found["crf"]) if wishes.crf else None,
        max_side=max_side,
        tile=wishes.tile,
        overlap=overlap,
        min_peak=float(found.get("min_peak", MIN_PEAK)),
    )
    _check_style(style, wishes)
    return style


def list_drawing(params: Params, *, log_odds: float) -> dict[str, Any]:
    """List how a project's label maps are drawn, as its models say it of themselves.

    Parameters
    ----------
    params : Params
    log_odds : float
        Of the segmenter's spec.
    """
    evaluate = params.evaluate
    return {
        "scales": list(evaluate.scales),
        "flip": evaluate.flip,
        "crf": describe_crf(params, log_odds),
        "max_side": MAX_SIDE,
        "min_peak": MIN_PEAK,
    }


def _check_style(style: Style, wishes: Wishes) -> None:
    problems = []
    if not all(0.1 <= scale <= 8 for scale in style.scales):
        problems.append(f"`--scales` must be from 0.1 to 8, got {', '.join(map(str, style.scales))}")
    if style.max_side < 64:
        problems.append(f"`--max-side` must be at least 64 pixels, got {style.max_side}")
    if style.tile is None:
        if wishes.overlap is not None:
            problems.append("`--overlap` means nothing without --tile: give both, or neither")
    elif style.tile < 64:
        problems.append(f"`--tile` must be at least 64 pixels, got {style.tile}")
    elif not 0 <= style.overlap <= style.tile // 2:
        half = style.tile // 2
        problems.append(f"`--overlap` must be from 0 to half of --tile ({half}), got {style.overlap}")
    if problems:
        raise UserError("\n".join(problems))


def _choose_compute(wishes: Wishes, root: Path) -> Compute:
    compute = _read_params(root).compute
    asked = {"device": wishes.device, "cluster": wishes.cluster}
    changes = {key: value for key, value in asked.items() if value is not None}
    try:
        return Compute.model_validate({**compute.model_dump(), **changes})
    except ValidationError:
        raise UserError(
            "`--cluster` must be none, local or the address of a Dask scheduler such as "
            f"tcp://10.0.0.5:8786, got {wishes.cluster!r}"
        ) from None


def _read_params(root: Path) -> Params:
    """Read the workspace's params; where there is none, those that a new one has."""
    own = root / "params.yaml"
    return read_params(own if own.exists() else DEFAULTS)


def _list_settings(model: Model, style: Style) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "source": model.source,
        "model": model.digest,
        "classes": list(model.classes),
        "scales": list(style.scales),
        "flip": style.flip,
        "crf": style.crf,
        "max_side": style.max_side,
        "tile": style.tile,
        "overlap": style.overlap,
    }
    return settings


def summarise_areas(outputs: Outputs) -> dict[str, dict[str, Any]]:
    """Summarise by class: in how many pictures it is, and its mean share of a picture."""
    counts = np.stack(list(outputs.counts.values()))
    shares = counts / counts.sum(axis=1, keepdims=True)
    return {
        name: {"images": int((counts[:, k] > 0).sum()), "share": round(float(shares[:, k].mean()), 6)}
        for k, name in enumerate(outputs.classes)
    }


def print_summary(summary: dict[str, Any]) -> None:
    """Print what was done, for people."""
    rows = [
        (name, str(found["images"]), f"{100 * found['share']:.1f}")
        for name, found in summary["classes"].items()
        if found["images"]
    ]
    console.print_table("", ["class", "pictures", "mean area, %"], rows)
    unreadable = f", {len(summary['unreadable'])} unreadable" if summary["unreadable"] else ""
    console.say(
        f"{summary['drawn']} label maps drawn, {summary['left']} were there{unreadable}, "
        f"{summary['seconds']:.0f} s, by {summary['model']}"
    )
    console.say(f"look at  {summary['out']}/sheet.png, {summary['out']}/overlays/")
    console.say(f"masks    {summary['out']}/masks/, numbers in areas.csv and areas.json")


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.predict", description=__doc__)
    parser.add_argument("images", type=Path, nargs="+", help="pictures, and folders of pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for masks, overlays and areas")
    parser.add_argument("--model", help="instead of the last round's segmenter")
    parser.add_argument("--root", type=Path, default=Path(), help="folder with params.yaml (default: .)")
    parser.add_argument("--no-crf", action="store_true", help="leave the edges as the network draws them")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="instead of compute.device")
    parser.add_argument("--cluster", help="none, local or tcp://HOST:PORT, instead of compute.cluster")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end_with_starter()
    wishes = Wishes(
        model=options.model, device=options.device, cluster=options.cluster, crf=not options.no_crf
    )
    try:
        print_summary(predict_pictures(options.images, options.out, wishes, root=options.root))
    except UserError as error:
        console.fail(str(error))
        return 2
    except OSError as error:
        message = describe_os_error(error)
        if message is None:
            raise
        console.fail(message)
        return 2
    except KeyboardInterrupt:
        console.fail("stopped; what is drawn was kept: the same command continues there")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
