"""A round's segmenter for other programs, checked against torch on the workspace's own pictures."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.groups import StoreError
from dsrg.image import fit_size, scale_image
from dsrg.store import ImageStore
from tasks import console
from tasks.errors import UserError
from tasks.params import read_params
from tasks.predict import list_drawing
from tasks.predict_models import hash_file, locate_segmenter
from tasks.workspace import WORK, Workspace

FORMATS = {"onnx": ".onnx", "torchscript": ".pt", "exported": ".pt2"}
MIN_SAME = 0.999
_PICTURES = 6
_SCALES = (0.75, 1.0, 1.37)


def export_model(root: Path, out: Path, *, kind: str | None, round_key: str | None) -> dict[str, Any]:
    """Write a segmenter for other programs, and keep the file only if it draws as the network does.

    Parameters
    ----------
    root : Path
        The workspace.
    out : Path
        The file.
    kind : str, optional
        One of `FORMATS`; by the suffix of `out`, if left out.
    round_key : str, optional
        The last round, if left out.

    Returns
    -------
    dict
        ``kept``: whether more than `MIN_SAME` of the pixels have the same class; and what was measured.

    Raises
    ------
    UserError
        Unknown format or round, nothing trained, or no pictures to check it on.
    """
    kind = choose_format(out, kind)
    params = read_params(root / "params.yaml")
    key = round_key or params.round_keys[-1]
    weights = locate_segmenter(root, round_key=key)

    import dsrg
    from dsrg import exporting
    from dsrg.models import ModelFileError, load_segmenter
    from dsrg.networks import describe_network

    try:
        segmenter, spec = load_segmenter(weights)
        batches = choose_pictures(ImageStore(root / "data" / "images.zarr"), side=spec.input_size)
    except (ModelFileError, StoreError) as error:
        raise UserError(str(error)) from None
    about = describe_network(
        ("background", *spec.classes),
        input_size=spec.input_size,
        settings=list_drawing(params, log_odds=spec.log_odds),
        source=params.source.name,
        round=key,
        run=_read_run(root),
        weights_sha256=hash_file(weights),
        backbone=spec.backbone,
        mean=[round(value, 6) for value in segmenter.backbone.mean.flatten().tolist()],
        std=[round(value, 6) for value in segmenter.backbone.std.flatten().tolist()],
        dsrg_version=dsrg.__version__,
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    with _partial(out) as partial:
        console.say(
            f"{kind}: round {key}, {spec.backbone}, {len(spec.classes)} classes; takes up to a minute"
        )
        exporting.export_segmenter(segmenter, partial, kind=kind, about=about)
        run = exporting.load_export(partial, kind=kind)
        found = exporting.compare_export(segmenter, run, batches)
        kept = found.same > MIN_SAME
        one = batches[0][:1]
        summary = {
            "file": str(out),
            "format": kind,
            "round": key,
            "bytes": partial.stat().st_size,
            "kept": kept,
            "pictures": sum(len(images) for images in batches),
            "pixels": found.pixels,
            "same_class": round(found.same, 6),
            "largest_difference": found.largest,
            "sizes": [list(size) for size in found.sizes],
            "timed_at": list(one.shape[1:3]),
            "milliseconds": _time(exporting, lambda: run(one.astype(np.float32))),
            "torch_milliseconds": _time(exporting, lambda: exporting.predict_probs(segmenter, one)),
        }
        if kept:
            os.replace(partial, out)
    return summary


def choose_format(out: Path, kind: str | None) -> str:
    """Choose the format by a file's suffix; a name that says another is refused."""
    known = ", ".join(f"{suffix} ({name})" for name, suffix in FORMATS.items())
    by_suffix = {suffix: name for name, suffix in FORMATS.items()}.get(out.suffix)
    if by_suffix is None or kind not in (None, by_suffix):
        wanted = FORMATS[kind] if kind else f"one of {known}"
        raise UserError(f"`--out` must end in {wanted}, got `{out.name}`")
    if out.is_dir():
        raise UserError(f"`--out` must be a file, got the folder `{out}`")
    return by_suffix


def choose_pictures(store: ImageStore, *, side: int) -> list[NDArray[np.uint8]]:
    """Choose pictures to compare on, spread over the val split, each at several sizes; one pair.

    Parameters
    ----------
    store : ImageStore
        Where it has no val split, the train split is taken.
    side : int
        Longer side that pictures had in training.

    Returns
    -------
    list of (N, H, W, 3) uint8
    """
    rows = store.index.rows("val") if len(store.index.rows("val")) else store.index.rows("train")
    chosen = rows[np.unique(np.linspace(0, len(rows) - 1, min(_PICTURES, len(rows))).round().astype(int))]
    batches = []
    for row in chosen:
        picture = store.read_image(int(row))
        batches += [_scale_to(picture, max(32, round(side * scale)))[None] for scale in _SCALES]
    pair = [batches[1][0], scale_image(batches[-2][0], batches[1].shape[1:3])]
    return [batches[1], *batches, np.stack(pair)]


def _scale_to(picture: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Scale a picture, up too, to a longer side; no side under 32 pixels."""
    factor = 1 + side / max(picture.shape[:2])
    height, width = fit_size([round(length * factor) for length in picture.shape[:2]], side)
    return scale_image(picture, (max(32, height), max(32, width)))


def _time(exporting: Any, call: Callable[[], object]) -> float:
    return float(round(1000 * exporting.time_call(call), 1))


def _read_run(root: Path) -> str:
    """Read the id of the MLflow run that keeps this workspace's results; empty if none does."""
    place = Workspace(root).path(f"{WORK}/tracked.json")
    return str(json.loads(place.read_text(encoding="utf-8")).get("run_id", "")) if place.exists() else ""


@contextlib.contextmanager
def _partial(out: Path) -> Iterator[Path]:
    partial = out.with_name(f".{out.stem}.partial{out.suffix}")
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def print_summary(summary: dict[str, Any]) -> None:
    """Print what was written and how well it agrees, for people."""
    sizes = sorted(tuple(size) for size in summary["sizes"])
    (low, _), (high, wide) = sizes[0], sizes[-1]
    console.say(
        f"checked  {summary['pictures']} pictures of {len(sizes)} sizes ({low} to {high}x{wide} pixels): "
        f"same class on {100 * summary['same_class']:.4f}% of {summary['pixels']} pixels, "
        f"probabilities differ by {summary['largest_difference']:.1e} at most"
    )
    height, width = summary["timed_at"]
    console.say(
        f"time     {summary['milliseconds']:.0f} ms for {width}x{height} pixels, "
        f"torch {summary['torch_milliseconds']:.0f} ms"
    )
    if summary["kept"]:
        console.say(f"written  {summary['file']}, {summary['bytes'] / 1e6:.1f} MB")
        if summary["format"] == "onnx":
            console.say(f"try      dsrg predict PICTURES --model {summary['file']} --out predicted")
    else:
        console.fail(
            f"`{summary['file']}` not kept: the class must be the same on more than {100 * MIN_SAME}% of "
            f"the pixels, got {100 * summary['same_class']:.4f}%"
        )
