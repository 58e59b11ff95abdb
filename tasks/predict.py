"""Label maps over a folder of pictures: ``python -m tasks.predict FOLDER --out FOLDER``; no stage of DVC."""

from __future__ import annotations

import argparse
import csv
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.image import DecodeError, fit_size, read_image, scale_image, scale_label_map
from dsrg.labels import build_palette
from dsrg.panels import overlay, write_png
from dsrg.sources.files import index_files, strip_suffix
from tasks import console
from tasks.errors import UserError, describe_os_error
from tasks.lifetime import end_with_starter
from tasks.params import Params, read_params

MIN_PEAK = 0.01
MAX_SIDE = 1024
AREAS = "areas.csv"


def predict_folder(params: Params, weights: Path, images: Path, out: Path, *, crf: bool) -> dict[str, Any]:
    """Draw a label map and an overlay for every picture below a folder.

    Pictures whose label map is there already are left, so that a stopped run continues. Pictures with a
    side over `MAX_SIDE` pixels are predicted at that size; their label maps have the size of the picture.

    Parameters
    ----------
    params : Params
        ``evaluate`` (scales, flip, CRF) and ``compute``.
    weights : Path
        A ``segmenter.safetensors``.
    images, out : Path
        Folders; the pictures' folders below `images` are kept below `out`.
    crf : bool
        Sharpen the edges by the CRF of ``evaluate``.

    Returns
    -------
    dict
        ``images``: how many were drawn, ``left``: how many were there, ``unreadable``: names.

    Raises
    ------
    UserError
        No picture, no segmenter, or none of the pictures can be read.
    """
    from dsrg.models import load_segmenter
    from dsrg.training import choose_device

    names = index_files(images).names if images.is_dir() else ()
    if not names:
        raise UserError(f"`{images}` must be a folder with pictures")
    if not weights.exists():
        raise UserError(f"`{weights}` not found: run `dsrg run` first, or name a finished run")
    segmenter, spec = load_segmenter(weights)
    segmenter = segmenter.to(choose_device(params.compute.device))
    unreadable, drawn, left = [], 0, 0
    for name in console.track(names, "predict"):
        target = out / "masks" / f"{strip_suffix(name)}.png"
        if target.exists():
            left += 1
            continue
        try:
            picture = read_image(images / name)
        except DecodeError as error:
            console.warn(f"{name}: {error}: left out")
            unreadable.append(name)
            continue
        label_map = _predict(segmenter, picture, params, crf=crf)
        target.parent.mkdir(parents=True, exist_ok=True)
        shown = out / "overlays" / f"{strip_suffix(name)}.png"
        shown.parent.mkdir(parents=True, exist_ok=True)
        write_png(shown, overlay(picture, label_map))
        _write_palette_png(target, label_map)
        drawn += 1
    if unreadable and not (drawn or left):
        raise UserError(
            f"`{images}`: none of {len(unreadable)} pictures can be read, such as {unreadable[0]}"
        )
    _write_areas(out, names, ("background", *spec.classes))
    console.say(f"{drawn} label maps drawn, {left} were there, {len(unreadable)} unreadable: {out}")
    return {"images": drawn, "left": left, "unreadable": unreadable}


def _predict(segmenter: Any, picture: NDArray[np.uint8], params: Params, *, crf: bool) -> NDArray[np.uint8]:
    from dsrg.inference import predict_probs
    from dsrg.scoring import list_likely, refine_prediction

    size = picture.shape[:2]
    small = scale_image(picture, fit_size(size, MAX_SIDE))
    settings = params.evaluate
    device = next(segmenter.parameters()).device
    probs = predict_probs(segmenter, small, scales=settings.scales, flip=settings.flip, device=device)
    if crf:
        ids = list_likely(probs, min_peak=MIN_PEAK)
        label_map = refine_prediction(probs[ids], ids, small, crf=settings.crf.model_dump())
    else:
        label_map = probs.argmax(axis=0).astype(np.uint8)
    return scale_label_map(label_map, size)


def _write_palette_png(path: Path, label_map: NDArray[np.uint8]) -> None:
    from PIL import Image

    picture = Image.fromarray(label_map, mode="P")
    picture.putpalette(build_palette().ravel().tolist())
    partial = path.with_name(f".{path.name}.partial")
    picture.save(partial, "PNG", optimize=True)
    os.replace(partial, path)


def _write_areas(out: Path, names: tuple[str, ...], classes: tuple[str, ...]) -> None:
    """Write each picture's share of every class, for those who want numbers."""
    from PIL import Image

    with (out / AREAS).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("image", *classes))
        for name in names:
            mask = out / "masks" / f"{strip_suffix(name)}.png"
            if mask.exists():
                with Image.open(mask) as picture:
                    counts = np.bincount(np.asarray(picture).ravel(), minlength=len(classes))
                writer.writerow((name, *(f"{share:.6f}" for share in counts[: len(classes)] / counts.sum())))


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tasks.predict", description=__doc__)
    parser.add_argument("images", type=Path, help="folder of pictures")
    parser.add_argument("--out", type=Path, required=True, help="folder for masks/, overlays/ and areas.csv")
    parser.add_argument("--root", type=Path, default=Path(), help="folder with params.yaml (default: .)")
    parser.add_argument("--no-crf", action="store_true", help="leave the edges as the network draws them")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), help="instead of compute.device")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    end_with_starter()
    try:
        params = read_params(options.root / "params.yaml")
        if options.device:
            compute = params.compute.model_copy(update={"device": options.device})
            params = params.model_copy(update={"compute": compute})
        weights = options.root / "data" / "rounds" / params.round_keys[-1] / "segmenter.safetensors"
        predict_folder(params, weights, options.images, options.out, crf=not options.no_crf)
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
