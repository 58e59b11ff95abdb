"""Work in threads keeps the memory that it frees."""

from __future__ import annotations

import platform
import resource
import subprocess
import sys

import numpy as np
import pytest

from dsrg.crf import refine_probs
from tasks.shards import map_in_threads

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other C libraries keep what they like"
)
LARGE = """
import resource, sys
from tasks.memory import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory(of_any_size=True)
for turn in range(6):
    if turn == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    b'x' * 80_000_000
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def test_large_memory_is_kept_too_where_it_is_asked_for() -> None:
    faults = {}
    for way in ("kept", "not kept"):
        done = subprocess.run([sys.executable, "-c", LARGE, way], capture_output=True, text=True, check=True)
        faults[way] = int(done.stdout)
    assert faults["kept"] < 1000, "80 MB are 20,000 pages"
    assert faults["not kept"] > 1000


def test_memory_that_a_thread_frees_is_what_it_gets_next() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (160, 200, 3), np.uint8)
    probs = np.full((3, 160, 200), 1 / 3, np.float32)

    def refine(number: int) -> int:
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        refine_probs(
            probs,
            image,
            iterations=2,
            bilateral_weight=4.0,
            bilateral_xy=49.0,
            bilateral_rgb=5.0,
            gaussian_weight=3.0,
            gaussian_xy=3.0,
        )
        return resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before

    faults = list(map_in_threads(refine, range(24), 2))
    assert np.median(faults[8:]) < 50, "hundreds, if all of it came from the system anew"
