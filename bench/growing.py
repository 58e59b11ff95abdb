"""Time region growing against the slow loop and scipy: ``python -m bench.growing``.

All three get the same pictures in the same run and must give the same seeds, or nothing is
reported. Inputs are smooth random fields that look like a network's output: 21 classes, 3 of them
present, sparse cues. One thread; CPU time, so that other work on the machine matters little.
Writes ``bench/growing.json``.

The slow loop is plain Python, as the authors' code is, but leaner. The last column divides by what
the authors' own function took in a study on another machine and other pictures (49.0 ms at 41x41,
3426 ms at 321x321): an order of magnitude, not a measurement of this run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from bench.results import write_result
from dsrg.growing import grow_label_map, grow_seeds
from dsrg.labels import collapse_planes
from tests.slow_growing import grow_slowly, grow_with_scipy

CLASSES = 21
PRESENT = np.array([0, 5, 12])
THRESHOLDS: dict[str, Any] = {"fg_threshold": 0.85, "bg_threshold": 0.99}
RUNS = {
    41: {"pictures": 8, "slow": 1, "scipy": 20, "numba": 400},
    321: {"pictures": 2, "slow": 1, "scipy": 5, "numba": 50},
}
TURNS = 5
PUBLISHED_OFFICIAL_MS = {41: 49.024, 321: 3426.485}


def draw_picture(size: int, rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.float32]]:
    """Draw cues (C, h, w) and probabilities (C, h, w) of one picture."""
    fields = np.stack([gaussian_filter(rng.normal(size=(size, size)), size / 12) for _ in range(CLASSES)])
    fields *= 9 / fields.std()
    absent = np.setdiff1d(np.arange(CLASSES), PRESENT)
    fields[absent] -= 12
    probs = np.exp(fields - fields.max(axis=0))
    probs = (probs / probs.sum(axis=0)).astype(np.float32)
    cues = np.zeros(probs.shape, bool)
    winner = probs.argmax(axis=0)
    for c in PRESENT:
        cues[c] = (winner == c) & (rng.random(winner.shape) < 0.03)
    return cues, probs


def time_peers(peers: dict[str, tuple[Callable[[int], object], int]], pictures: int) -> dict[str, float]:
    """Time every peer on every picture, in turns; the best mean of a turn, in ms of CPU time."""
    best = dict.fromkeys(peers, np.inf)
    for _ in range(TURNS):
        for name, (call, repeats) in peers.items():
            began = time.process_time()
            for _ in range(repeats):
                for number in range(pictures):
                    call(number)
            best[name] = min(best[name], 1000 * (time.process_time() - began) / (repeats * pictures))
    return best


def measure(size: int) -> list[dict[str, Any]]:
    """Check that all peers agree at one size, then time them."""
    run = RUNS[size]
    rng = np.random.default_rng(0)
    pictures = [draw_picture(size, rng) for _ in range(run["pictures"])]
    maps = [(collapse_planes(cues), np.ascontiguousarray(probs[PRESENT])) for cues, probs in pictures]
    grown = 0.0
    for (cues, probs), (cue, own) in zip(pictures, maps, strict=True):
        seeds = grow_seeds(cues, probs, PRESENT, **THRESHOLDS)
        np.testing.assert_array_equal(seeds, grow_slowly(cues, probs, PRESENT, **THRESHOLDS))
        np.testing.assert_array_equal(seeds, grow_with_scipy(cues, probs, PRESENT, **THRESHOLDS))
        np.testing.assert_array_equal(collapse_planes(seeds), grow_label_map(cue, own, PRESENT, **THRESHOLDS))
        grown += (seeds.sum() - cues.sum()) / seeds[0].size / len(pictures)
    peers: dict[str, tuple[Callable[[int], object], int]] = {
        "slow loop": (lambda n: grow_slowly(*pictures[n], PRESENT, **THRESHOLDS), run["slow"]),
        "scipy label per class": (
            lambda n: grow_with_scipy(*pictures[n], PRESENT, **THRESHOLDS),
            run["scipy"],
        ),
        "grow_seeds": (lambda n: grow_seeds(*pictures[n], PRESENT, **THRESHOLDS), run["numba"]),
        "grow_label_map": (lambda n: grow_label_map(*maps[n], PRESENT, **THRESHOLDS), run["numba"]),
    }
    times = time_peers(peers, len(pictures))
    return [
        {
            "size": size,
            "peer": name,
            "ms": round(value, 4),
            "times_slow_loop": round(times["slow loop"] / value, 1),
            "times_published_official": round(PUBLISHED_OFFICIAL_MS[size] / value, 1),
            "grown_share": round(grown, 3),
        }
        for name, value in times.items()
    ]


def main() -> None:
    """Measure every size, print a table, write the numbers."""
    rows = [row for size in RUNS for row in measure(size)]
    print("all peers give equal seeds; one thread, CPU time per picture, 3 of 21 classes present")
    print(f"{'size':>5}  {'peer':<22} {'ms':>10} {'x slow loop':>12} {'x published official':>21}")
    for row in rows:
        print(
            f"{row['size']:>5}  {row['peer']:<22} {row['ms']:>10.4f} "
            f"{row['times_slow_loop']:>12.1f} {row['times_published_official']:>21.1f}"
        )
    write_result(__file__, rows=rows)


if __name__ == "__main__":
    main()
