"""Time the CRF over a data set with one worker and with two: ``python -m bench.shards``.

Pictures of 320 x 240 pixels are read from their store and refined lot by lot, as ``refine`` and ``evaluate``
do it, once in one thread, once in threads and once in processes. Labels must be equal. Clock time, start-up
included, so the machine should have nothing else to do. Writes ``bench/shards.json``.

    python -m bench.shards
    python -m bench.shards --pictures 400 --workers 4
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bench.crf import SETTINGS, SMOOTHNESS
from bench.reading import build_params, draw_folder, ingest_silently
from bench.results import write_result
from dsrg.crf import refine_probs
from dsrg.store import ImageStore
from tasks.shards import map_shards
from tasks.workspace import Workspace

CLASSES = 3
LOT = 8
REPEATS = 5


def refine_lot(lot: tuple[Path, tuple[int, ...]]) -> list[NDArray[np.uint8]]:
    """Refine made-up probabilities of a few pictures; their label maps."""
    path, rows = lot
    drawn = []
    for row in rows:
        image = _open(path).read_image(row)
        probs = np.load(_locate_probs(path, row))
        refined = refine_probs(probs, image, **SETTINGS["DeepLab's"], **SMOOTHNESS)
        drawn.append(refined.argmax(axis=0).astype(np.uint8))
    return drawn


def _locate_probs(store: Path, row: int) -> Path:
    return store.parent / f"probs-{row}.npy"


@lru_cache(maxsize=1)
def _open(path: Path) -> ImageStore:
    return ImageStore(path)


def _make_probs(seed: int, size: tuple[int, ...]) -> NDArray[np.float32]:
    """Make smooth probabilities."""
    rng = np.random.default_rng(seed)
    fields = np.stack([gaussian_filter(rng.normal(size=size), 16) for _ in range(CLASSES)])
    exponents = np.exp(3 * fields / fields.std())
    probs: NDArray[np.float32] = (exponents / exponents.sum(axis=0)).astype(np.float32)
    return probs


def main() -> None:
    """Measure, print a table, write the numbers."""
    parser = argparse.ArgumentParser(prog="python -m bench.shards", description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    ways = {
        "one thread": (1, False),
        f"{options.workers} threads": (options.workers, True),
        f"{options.workers} processes": (options.workers, False),
    }
    best: dict[str, float] = dict.fromkeys(ways, np.inf)
    with tempfile.TemporaryDirectory() as name:
        folder = draw_folder(Path(name) / "photographs", options.pictures)
        project = Path(name) / "project"
        project.mkdir()
        params = build_params(folder, workers=options.workers)
        ingest_silently(params, Workspace(project))
        store = project / "data" / "images.zarr"
        images = ImageStore(store)
        rows = range(len(images))
        for row in rows:
            np.save(_locate_probs(store, row), _make_probs(row, images.read_image(row).shape[:2]))
        lots = [(store, tuple(rows[start : start + LOT])) for start in rows[::LOT]]
        expected = refine_lot(lots[0])  # and the kernels are compiled
        for _ in range(REPEATS):
            for way, (workers, in_threads) in ways.items():
                compute = params.compute.model_copy(update={"workers": workers})
                began = time.perf_counter()
                with contextlib.redirect_stdout(io.StringIO()):
                    found = list(
                        map_shards(refine_lot, lots, compute=compute, description="", in_threads=in_threads)
                    )
                best[way] = min(best[way], time.perf_counter() - began)
                for ours, theirs in zip(found[0], expected, strict=True):
                    np.testing.assert_array_equal(ours, theirs)
    results = [
        {
            "way": way,
            "images_per_second": round(options.pictures / seconds, 2),
            "times": round(best["one thread"] / seconds, 2),
        }
        for way, seconds in best.items()
    ]
    print(f"{options.pictures} pictures, {CLASSES} classes, 10 iterations")
    for row in results:
        print(f"{row['way']:<12} {row['images_per_second']:>8.2f} images/s {row['times']:>6.2f} x")
    write_result(__file__, pictures=options.pictures, rows=results)


if __name__ == "__main__":
    main()
