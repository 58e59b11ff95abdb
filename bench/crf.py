"""Time the fully connected CRF against pydensecrf: ``python -m bench.crf``.

Photographs that come with scikit-image; 3 of 21 classes present, the probabilities of absent ones 0. All
peers get the same pictures in the same run, and their labels must agree in 99.99% of the pixels, or nothing
is reported. One thread and CPU time, so that other work on the machine matters little; a batch as training
has it is timed by the clock as well: its pictures are refined in threads. Writes ``bench/crf.json``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter
from skimage import data

from bench.results import write_result
from dsrg.crf import refine_batch

CLASSES = 21
PRESENT = np.array([0, 5, 12])
BATCH = 20
SIZES = ((321, 321), (375, 500))
SETTINGS: dict[str, dict[str, Any]] = {
    "DeepLab's": {"bilateral_weight": 4.0, "bilateral_xy": 49.0, "bilateral_rgb": 5.0},
    "official": {"bilateral_weight": 10.0, "bilateral_xy": 80.0, "bilateral_rgb": 13.0},
}
SMOOTHNESS: dict[str, Any] = {"iterations": 10, "gaussian_weight": 3.0, "gaussian_xy": 3.0}
TRAINING: dict[str, Any] = {
    **SETTINGS["official"],
    **SMOOTHNESS,
    "bilateral_xy": 80 / 12,
    "gaussian_xy": 0.25,
}
TRAINING_GRID = (41, 41)
LEAST_AGREEMENT = 0.9999
REPEATS = 7

Picture = tuple[NDArray[np.float32], NDArray[np.uint8]]
Peers = dict[str, Callable[[], NDArray[np.float32]]]


def load_pictures(size: tuple[int, int], count: int) -> list[Picture]:
    """Load photographs at one size, each with smooth probabilities (C, H, W) of the present classes."""
    rng = np.random.default_rng(0)
    photographs = [data.astronaut(), data.chelsea(), data.coffee()]
    pictures = []
    for number in range(count):
        photograph = Image.fromarray(photographs[number % len(photographs)])
        if number >= len(photographs):
            left, top = rng.integers(0, photograph.width // 2), rng.integers(0, photograph.height // 2)
            photograph = photograph.crop(
                (left, top, left + photograph.width // 2, top + photograph.height // 2)
            )
        image = np.asarray(photograph.resize(size[::-1], Image.Resampling.BILINEAR))
        fields = np.stack([gaussian_filter(rng.normal(size=size), min(size) / 12) for _ in PRESENT])
        fields *= 3 / fields.std()
        own = np.exp(fields) / np.exp(fields).sum(axis=0)
        probs = np.zeros((CLASSES, *size), np.float32)
        probs[PRESENT] = own
        pictures.append((probs, image))
    return pictures


def measure(what: str, batches: list[list[Picture]], settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Time batches of one size with one kind of settings; a picture by itself is a batch of one."""
    everything = np.arange(CLASSES)
    timed = []
    for batch in batches:
        probs = np.stack([one for one, _ in batch])
        images = np.stack([image for _, image in batch])

        def refine(present: NDArray[np.int64], solver: Any, probs: Any = probs, images: Any = images) -> Any:
            presents = [present] * len(probs)
            return refine_batch(probs, images, presents, **settings, solver=solver)[:, PRESENT]

        peers: Peers = {
            "pydensecrf, 21 classes": partial(refine, everything, "pydensecrf"),
            "pydensecrf, present": partial(refine, PRESENT, "pydensecrf"),
            "lattice, present": partial(refine, PRESENT, "lattice"),
        }
        timed.append(_time(peers))
    return _summarise(what, timed)


def _time(peers: Peers) -> dict[str, dict[str, float]]:
    """Time peers in turn; the least CPU and clock time of each in ms, and its agreement with the first."""
    labels = {name: call().argmax(axis=-3) for name, call in peers.items()}
    first = next(iter(labels.values()))
    found: dict[str, dict[str, float]] = {}
    for name, label_map in labels.items():
        agreement = float((label_map == first).mean())
        if agreement < LEAST_AGREEMENT:
            raise SystemExit(f"{name}: {agreement:.6f} of the labels are those of pydensecrf")
        found[name] = {"cpu": np.inf, "clock": np.inf, "agreement": agreement}
    for _ in range(REPEATS):
        for name, call in peers.items():
            cpu, clock = time.process_time(), time.perf_counter()
            call()
            found[name]["cpu"] = min(found[name]["cpu"], 1000 * (time.process_time() - cpu))
            found[name]["clock"] = min(found[name]["clock"], 1000 * (time.perf_counter() - clock))
    return found


def _summarise(what: str, pictures: list[dict[str, dict[str, float]]]) -> list[dict[str, Any]]:
    names = list(pictures[0])
    mean = {
        name: {key: float(np.mean([one[name][key] for one in pictures])) for key in ("cpu", "clock")}
        for name in names
    }
    return [
        {
            "what": what,
            "peer": name,
            "cpu_ms": round(mean[name]["cpu"], 2),
            "clock_ms": round(mean[name]["clock"], 2),
            "times_all_classes": round(mean[names[0]]["cpu"] / mean[name]["cpu"], 2),
            "times_present": round(mean[names[1]]["cpu"] / mean[name]["cpu"], 2),
            "times_all_classes_clock": round(mean[names[0]]["clock"] / mean[name]["clock"], 2),
            "agreement": min(one[name]["agreement"] for one in pictures),
        }
        for name in names
    ]


def main() -> None:
    """Measure, print a table, write the numbers."""
    rows = []
    for size in SIZES:
        alone = [[picture] for picture in load_pictures(size, 3)]
        for name, bilateral in SETTINGS.items():
            rows += measure(f"{size[0]}x{size[1]}, {name}", alone, {**bilateral, **SMOOTHNESS})
    batch = load_pictures(TRAINING_GRID, BATCH)
    rows += measure(f"{BATCH} x {TRAINING_GRID[0]}x{TRAINING_GRID[1]}", [batch], TRAINING)
    print(
        "ms a picture or batch, 10 iterations, 3 of 21 classes present; how many times as fast as pydensecrf"
    )
    columns = f"{'what':<22} {'peer':<23} {'CPU ms':>8} {'ms':>8} {'x 21 classes':>13} {'x present':>10}"
    print(f"{columns} {'agree':>9}")
    for row in rows:
        print(
            f"{row['what']:<22} {row['peer']:<23} {row['cpu_ms']:>8.1f} {row['clock_ms']:>8.1f} "
            f"{row['times_all_classes']:>13.2f} {row['times_present']:>10.2f} {row['agreement']:>9.6f}"
        )
    write_result(__file__, rows=rows)


if __name__ == "__main__":
    main()
