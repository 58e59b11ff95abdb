"""Time the exact mean field of a training's batch against pydensecrf: ``python -m bench.crf_exact``.

20 grids of 41 x 41 cells, 3 of 21 classes present, as the seed loss refines them in each step: all pairs at
once on a GPU (or, slowly, on a CPU), from tensors that are there already, against pydensecrf with all 21
labels in one thread. The field must be within 1e-5 of the sums written out in float64. Adds to
``bench/crf_exact.json``, by device.

    python -m bench.crf_exact
    python -m bench.crf_exact --device cpu
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import torch

from bench.crf import BATCH, CLASSES, PRESENT, TRAINING, TRAINING_GRID, load_pictures
from bench.results import draw_table, read_result, write_result
from dsrg.crf import refine_batch
from dsrg.dense_field import refine_densely
from dsrg.training import choose_device
from tasks.doctor_places import name_processor
from tests.slow_crf import infer_slowly

CLOSE = 1e-5
REPEATS = 10


def time_best(call: Callable[[], object], device: torch.device) -> float:
    """Time a call by the clock, the device's work included; the best of some, in ms."""
    best = np.inf
    for _ in range(REPEATS + 1):
        began = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, 1000 * (time.perf_counter() - began))
    return float(best)


def main() -> None:
    """Measure, print a table, write the numbers."""
    parser = argparse.ArgumentParser(prog="python -m bench.crf_exact", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    device = choose_device(parser.parse_args().device)
    batch = load_pictures(TRAINING_GRID, BATCH)
    probs, images = (np.stack(parts) for parts in zip(*batch, strict=True))
    held = torch.zeros(BATCH, CLASSES - 1, dtype=torch.bool)
    held[:, PRESENT[1:] - 1] = True
    on_device = [torch.from_numpy(array).to(device) for array in (probs, images)]
    found = refine_densely(*on_device, held.to(device), **TRAINING).cpu().numpy()[:, PRESENT]
    expected = [
        infer_slowly(own[PRESENT].astype(np.float64), image.astype(np.float64), TRAINING)
        for own, image in batch
    ]
    apart = float(np.abs(found - np.stack(expected)).max())
    if apart > CLOSE:
        raise SystemExit(f"the field is {apart:.2g} from that in float64")
    plain = {**TRAINING, "solver": "pydensecrf"}
    everything = [np.arange(CLASSES)] * BATCH
    ours = time_best(lambda: refine_densely(*on_device, held.to(device), **TRAINING), device)
    theirs = time_best(lambda: refine_batch(probs, images, everything, **plain), device)
    machine = torch.cuda.get_device_name() if device.type == "cuda" else name_processor()
    devices = read_result(__file__).get("devices", {})
    row = {"exact_ms": round(ours, 2), "pydensecrf_ms": round(theirs, 1), "times": round(theirs / ours, 1)}
    devices[machine] = {**row, "apart": float(f"{apart:.2g}")}
    head = ("device", "exact, ms", "pydensecrf, ms", "times as fast", "from float64")
    print(draw_table(head, [(name, *map(str, values.values())) for name, values in devices.items()]))
    write_result(__file__, devices=devices)


if __name__ == "__main__":
    main()
