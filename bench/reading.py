"""Time pictures on their way in: ``python -m bench.reading``.

Crops of the photographs that come with scikit-image, as JPEGs of 500 x 375 pixels, are ingested by the
stage and by a plain loop of PIL and NumPy in one process; then they are read in random order from the
store, and decoded and scaled anew from the JPEGs. Fewer of 4000 x 3000, as cameras make them, are ingested
likewise. Pictures read must be equal but for rounding (a twentieth of a grey level in the mean), or nothing
is reported; large ones, which ingest decodes at a fraction of their size, within a grey level.
Ingest is timed by the clock, as its work is spread over threads, and the peers take turns; reading is
timed by CPU time of one thread. Writes ``bench/reading.json``.

    python -m bench.reading
    python -m bench.reading --pictures 2000
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from skimage import data

from bench.results import write_result
from dsrg.store import ImageStore
from tasks import ingest
from tasks.params import Params, read_params
from tasks.workspace import Workspace

ROOT = Path(__file__).resolve().parent.parent
SIZE = (375, 500)
CAMERA = (3000, 4000)
CAMERA_PICTURES = 128  # two shards: one for each of two workers
QUALITY = 90
REPEATS = 3
READS = 200


def draw_folder(root: Path, count: int, size: tuple[int, int] = SIZE) -> Path:
    """Write a folder source of photographs: crops of random place and size, half of them mirrored."""
    rng = np.random.default_rng(0)
    photographs = [data.astronaut(), data.chelsea(), data.coffee(), data.rocket()]
    (root / "images").mkdir(parents=True)
    rows = ["id,classes,split"]
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        height = int(rng.integers(150, 290))
        width = round(height * size[1] / size[0])
        top = int(rng.integers(photograph.shape[0] - height + 1))
        left = int(rng.integers(photograph.shape[1] - width + 1))
        crop = photograph[top : top + height, left : left + width]
        picture = Image.fromarray(crop[:, ::-1] if number % 2 else crop)
        picture.resize(size[::-1], Image.Resampling.BICUBIC).save(
            root / "images" / f"{number:05d}.jpg", quality=QUALITY
        )
        rows.append(
            f"{number:05d},{'even' if number % 2 == 0 else 'odd'},{'val' if number % 16 > 13 else 'train'}"
        )
    (root / "labels.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return root


def build_params(folder: Path, *, workers: int) -> Params:
    """The project's params, for this folder."""
    params = read_params(ROOT / "params.yaml")
    source = params.source.model_copy(update={"kind": "folder", "path": str(folder)})
    compute = params.compute.model_copy(update={"workers": workers})
    return params.model_copy(update={"source": source, "compute": compute})


def load_scaled(path: Path, canvas: int) -> NDArray[np.uint8]:
    """Decode a JPEG and scale it, as a loader without a store would."""
    with Image.open(path) as image:
        picture = image.convert("RGB")
    scale = min(1.0, canvas / max(picture.size))
    size = (round(picture.width * scale), round(picture.height * scale))
    return np.array(picture.resize(size, Image.Resampling.LANCZOS))


def ingest_plainly(folder: Path, out: Path, canvas: int) -> None:
    """Do what ingest does to pixels, one picture after the other, into .npy files."""
    out.mkdir()
    for path in sorted((folder / "images").iterdir()):
        np.save(out / f"{path.stem}.npy", load_scaled(path, canvas))


def time_ingest(folder: Path, place: Path, *, workers: int, repeats: int) -> tuple[dict[str, float], Path]:
    """Time both ways in turn; the least seconds of each, and the store."""
    params = build_params(folder, workers=workers)
    best: dict[str, float] = {}
    for turn in range(repeats):
        project = place / f"project{turn}"
        project.mkdir()
        ways: dict[str, Callable[[], object]] = {
            "PIL loop": lambda turn=turn: ingest_plainly(  # type: ignore[misc]
                folder, place / f"plain{turn}", params.ingest.canvas
            ),
            "ingest": lambda project=project: ingest_silently(params, Workspace(project)),  # type: ignore[misc]
        }
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            best[name] = min(best.get(name, np.inf), time.perf_counter() - began)
    return best, place / f"project{repeats - 1}" / "data" / "images.zarr"


def ingest_silently(params: Params, workspace: Workspace) -> None:
    """Ingest without the stage's tables."""
    with contextlib.redirect_stdout(io.StringIO()):
        ingest.run(params, workspace)


def check_pictures(folder: Path, store: ImageStore, rows: list[int], *, tolerance: float) -> list[Path]:
    """Hold what was stored against what the loop makes of the same files; return those."""
    paths = [folder / "images" / f"{store.index.ids[row]}.jpg" for row in rows]
    for row, path in zip(rows, paths, strict=True):
        difference = np.abs(store.read_image(row).astype(int) - load_scaled(path, store.canvas))
        if difference.mean() > tolerance:
            raise AssertionError(f"{path.name} differs by {difference.mean():.2f} grey levels in the mean")
    return paths


def time_reads(folder: Path, store_path: Path) -> dict[str, float]:
    """Time reads in random order, both ways in turn; the least CPU seconds of each."""
    store = ImageStore(store_path)
    rows = np.random.default_rng(1).permutation(len(store))[:READS].tolist()
    paths = check_pictures(folder, store, rows, tolerance=0.05)
    ways: dict[str, Callable[[], object]] = {
        "PIL decode + scale": lambda: [load_scaled(path, store.canvas) for path in paths],
        "store": lambda: [store.read_image(row) for row in rows],
    }
    best: dict[str, float] = {}
    for _ in range(REPEATS):
        for name, way in ways.items():
            began = time.process_time()
            way()
            best[name] = min(best.get(name, np.inf), time.process_time() - began)
    return {name: seconds / len(rows) for name, seconds in best.items()}


def main() -> None:
    """Measure, print a table, write the numbers."""
    parser = argparse.ArgumentParser(prog="python -m bench.reading", description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=2, help="threads of ingest (default: 2)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        folder = draw_folder(place / "photographs", options.pictures)
        ingested, store = time_ingest(folder, place, workers=options.workers, repeats=REPEATS)
        read = time_reads(folder, store)
        large = draw_folder(place / "large", CAMERA_PICTURES, CAMERA)
        (place / "of-large").mkdir()
        ingested_large, store = time_ingest(large, place / "of-large", workers=options.workers, repeats=1)
        check_pictures(large, ImageStore(store), list(range(CAMERA_PICTURES)), tolerance=1)
    rows = [
        *_list_rows(f"ingest of {options.pictures}, s", ingested, 1.0),
        *_list_rows(f"ingest of {CAMERA_PICTURES} large, s", ingested_large, 1.0),
        *_list_rows("random read, ms", read, 1000.0),
    ]
    print(f"photographs of {SIZE[1]} x {SIZE[0]}, large ones of {CAMERA[1]} x {CAMERA[0]}")
    for row in rows:
        print(f"{row['what']:<24} {row['peer']:<20} {row['value']:>9.3f} {row['times']:>7.2f} x")
    write_result(__file__, workers=options.workers, rows=rows)


def _list_rows(what: str, seconds: dict[str, float], unit: float) -> list[dict[str, Any]]:
    first = next(iter(seconds.values()))
    return [
        {"what": what, "peer": name, "value": round(unit * value, 4), "times": round(first / value, 2)}
        for name, value in seconds.items()
    ]


if __name__ == "__main__":
    main()
