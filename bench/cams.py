"""Time CAMs against a straightforward loop: ``python -m bench.cams``.

The loop does what most code for the task does: one picture after the other is decoded from its JPEG, and
every view of it, at three scales and mirrored, goes through the network by itself; activations are scaled to
the picture, averaged, and saved as one float32 array a picture. The stage does the same from its store, with
the spreading over look-alike cells turned off, which the loop has not; in float32 and, with
``compute.inference_precision`` bf16-mixed, in bfloat16. All have the same weights, and their maps must agree:
the mean difference, the maximum being 1, is told and may be 0.02, as the stage averages on its grid of 4
pixels. Writes ``bench/cams.json``.

    python -m bench.cams
    python -m bench.cams --pictures 100
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from bench.reading import build_params, draw_folder, ingest_silently, load_scaled
from bench.results import draw_table, write_result
from dsrg.cam import CAM_STRIDE, choose_view_side
from dsrg.models import Classifier, ClassifierSpec, load_classifier, save_model
from dsrg.scaling import scale_maps
from dsrg.store import ImageStore, ScoreStore, count_cells
from tasks import cams
from tasks.params import Params
from tasks.workspace import Workspace

SCALES = (1.0, 1.2, 1.8)
MOST_DIFFERENCE = 0.02
REPEATS = 2
STAGES = {"stage": "32-true", "stage, bfloat16": "bf16-mixed"}


def make_params(folder: Path) -> Params:
    """The project's params, for this folder and these views."""
    params = build_params(folder, workers=0)
    views = params.cams.model_copy(update={"scales": SCALES, "flip": True, "affinity_power": 0.0})
    return params.model_copy(update={"cams": views})


def prepare(params: Params, workspace: Workspace) -> None:
    """Ingest, and save a classifier with ImageNet's trunk and a random last layer."""
    ingest_silently(params, workspace)
    spec = ClassifierSpec(params.backbone.name, ImageStore(workspace.path("data/images.zarr")).index.classes)
    torch.manual_seed(0)
    classifier = spec.build(output_stride=params.cams.output_stride, weights="imagenet")
    torch.nn.init.normal_(classifier.head.weight, std=0.05)
    save_model(workspace.path("data/classifier.safetensors"), classifier, spec, digest="bench")


def run_plainly(
    classifier: Classifier, folder: Path, index: Any, out: Path, *, side: Callable[..., int], canvas: int
) -> None:
    """Make CAMs one view at a time."""
    out.mkdir()
    for row in index.rows("train").tolist():
        image = load_scaled(folder / "images" / f"{index.ids[row]}.jpg", canvas)
        pixels = torch.from_numpy(image.transpose(2, 0, 1).copy())[None].float() / 255
        height, width = image.shape[:2]
        total = torch.zeros(len(index.classes), height, width)
        for scale in SCALES:
            factor = side((height, width)) * scale / max(height, width)
            size = (round(height * factor), round(width * factor))
            view = functional.interpolate(pixels, size=size, mode="bilinear", antialias=factor < 1)
            for mirrored in (False, True):
                with torch.no_grad():
                    maps = torch.relu(classifier.activate(view.flip(-1) if mirrored else view))
                maps = maps.flip(-1) if mirrored else maps
                total += functional.interpolate(maps, size=(height, width), mode="bilinear")[0]
        kept = total[torch.from_numpy(index.image_labels[row])]
        kept /= kept.amax(dim=(1, 2), keepdim=True).clamp_min(1e-5)
        np.save(out / f"{index.ids[row]}.npy", kept.numpy())


def run_stage(params: Params, workspace: Workspace, precision: str) -> None:
    """Make CAMs by the stage, from the start."""
    compute = params.compute.model_copy(update={"inference_precision": precision})
    params = params.model_copy(update={"compute": compute})
    for place in ("data/cams.zarr", ".work/cams"):
        shutil.rmtree(workspace.path(place), ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()):
        cams.run(params, workspace)


def compare(workspace: Workspace, index: Any, out: Path) -> float:
    """Measure by how much the maps of both ways differ, on the stage's grid."""
    store = ScoreStore(workspace.path("data/cams.zarr"), "cam", stage="cams")
    differences = []
    for row in index.rows("train").tolist():
        theirs: NDArray[np.float32] = np.load(out / f"{index.ids[row]}.npy")
        cells = count_cells(theirs.shape[1:], CAM_STRIDE)
        ours = store.read(row, len(theirs), cells)
        differences.append(float(np.abs(ours - scale_maps(theirs, cells)).mean()))
    return float(np.mean(differences))


def measure_size(place: Path) -> float:
    """Measure a file or a folder in MB."""
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file()) / 1e6


def main() -> None:
    """Measure, print a table, write the numbers."""
    parser = argparse.ArgumentParser(prog="python -m bench.cams", description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=160)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folder = draw_folder(place / "photographs", options.pictures)
        params, workspace = make_params(folder), Workspace(place / "project")
        prepare(params, workspace)
        index = ImageStore(workspace.path("data/images.zarr")).index
        with mock.patch("dsrg.models.folding.fold_norms"):
            plain, _ = load_classifier(
                workspace.path("data/classifier.safetensors"), output_stride=params.cams.output_stride
            )

        def side(size: tuple[int, int]) -> int:
            return choose_view_side(size, smallest=params.classify.crop_size, largest=params.cams.size)

        looked_at: dict[str, Any] = {"side": side, "canvas": params.ingest.canvas}
        turns: list[tuple[str, Callable[[], None]]] = [
            # all before the stage, which has the process keep memory that it frees
            *(
                ("loop", partial(run_plainly, plain, folder, index, place / f"plain{turn}", **looked_at))
                for turn in range(REPEATS)
            ),
            *(
                (way, partial(run_stage, params, workspace, precision))
                for way, precision in STAGES.items()
                for _ in range(REPEATS)
            ),
        ]
        best: dict[str, float] = {}
        sizes = {}
        differences = {"loop": 0.0}
        for way, function in turns:
            began = time.perf_counter()
            function()
            best[way] = min(best.get(way, np.inf), time.perf_counter() - began)
            if way in STAGES:
                differences[way] = compare(workspace, index, place / "plain0")
                sizes[way] = measure_size(workspace.path("data/cams.zarr"))
            else:
                sizes[way] = measure_size(place / "plain0")
    for way, difference in differences.items():
        if difference > MOST_DIFFERENCE:
            raise SystemExit(f"maps of {way!r} differ by {difference:.4f} in the mean")
    count = len(index.rows("train"))
    rows = [
        {
            "way": way,
            "images_per_second": round(count / seconds, 2),
            "times": round(best["loop"] / seconds, 2),
            "mb": round(sizes[way], 2),
            "times_smaller": round(sizes["loop"] / sizes[way], 1),
            "difference": round(differences[way], 5),
        }
        for way, seconds in best.items()
    ]
    print(f"{count} pictures, {len(SCALES)} scales, mirrored too")
    head = ("way", "images/s", "times as fast", "MB", "times smaller", "mean difference")
    print(draw_table(head, (tuple(str(value) for value in row.values()) for row in rows)))
    write_result(__file__, rows=rows)


if __name__ == "__main__":
    main()
