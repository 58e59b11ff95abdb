"""Read pictures of a store on an object store, with the copies that readers keep: ``python -m bench.copies``.

The object store is moto's server on this machine, so that all it costs is its own slowness; a real one is
further away. Every picture is read once an epoch, in random order: of a store on the disk, of the same one
on the object store (the first epoch fetches its shards, later ones find copies), and by Zarr alone, which
asks for every picture. All must read the same pixels. Writes ``bench/copies.json``.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import FsspecStore

from bench.pictures import build_index
from bench.results import draw_table, write_result
from dsrg.groups import finish_store, iterate_shards, write_rows
from dsrg.places import parse_place
from dsrg.store import SHARD_IMAGES, ImageStore, create_image_store
from tests.object_store import start_object_store

PICTURES, CANVAS, REPEATS = 640, 320, 5


def write_store(place: Path) -> None:
    """Write pictures that compress as photographs do, about to a half."""
    rng = np.random.default_rng(0)
    index = build_index(PICTURES, size=(CANVAS, CANVAS))
    create_image_store(place, index, canvas=CANVAS, source="folder")
    for _, rows in iterate_shards(PICTURES, SHARD_IMAGES):
        shape = (rows.stop - rows.start, CANVAS, CANVAS // 2, 3)
        write_rows(place, "image", rows, rng.integers(0, 256, shape, np.uint8).repeat(2, axis=2))
    finish_store(place, digest="bench")


def read_epoch(read: Callable[[int], NDArray[np.uint8]], order: NDArray[np.int64]) -> tuple[float, str]:
    """Read all pictures once; return the seconds, and a digest of the pixels."""
    digest = hashlib.sha256()
    began = time.perf_counter()
    for row in order:
        digest.update(read(int(row)).data)
    return time.perf_counter() - began, digest.hexdigest()


def main() -> None:
    """Measure, print a table, write the numbers; status 1 where pixels differ."""
    order = np.random.default_rng(1).permutation(PICTURES)
    with tempfile.TemporaryDirectory() as name, start_object_store(Path(name) / "objects") as objects:
        os.environ.update(objects.environment)
        near, far = Path(name) / "images.zarr", parse_place(f"{objects.url}/images.zarr")
        seconds: dict[str, list[float]] = {}
        seen = set()

        def measure(what: str, read: Callable[[int], NDArray[np.uint8]]) -> None:
            took, digest = read_epoch(read, order)
            seconds.setdefault(what, []).append(took)
            seen.add(digest)

        for place in (near, far):
            write_store(place)
        bare: Any = zarr.open_group(store=FsspecStore.from_url(str(far), read_only=True), mode="r")["image"]
        asked = len(objects.list_requests())
        measure("without copies", lambda row: cast(NDArray[np.uint8], np.asarray(bare[row])))
        asked = len(objects.list_requests()) - asked
        there, here = ImageStore(far), ImageStore(near)
        assert len(there) == len(here)  # opens both
        measure("first epoch", there.read_image)
        for _ in range(REPEATS):
            measure("on the disk", here.read_image)
            measure("later epochs", there.read_image)
    typical = {what: float(np.median(found)) for what, found in seconds.items()}
    disk = typical["on the disk"]
    rows = [
        (what, f"{found:.2f}", f"{found / disk:.2f}")
        for what, found in sorted(typical.items(), key=lambda one: one[1])
    ]
    print(draw_table(["", "seconds", "times the disk's"], rows))
    print(f"requests without copies: {asked}; pixels {'equal' if len(seen) == 1 else 'DIFFER'}")
    numbers = {
        "pictures": PICTURES,
        "canvas": CANVAS,
        "requests_without_copies": asked,
        "equal": len(seen) == 1,
    }
    write_result(__file__, **numbers, seconds={what: round(found, 3) for what, found in typical.items()})
    if len(seen) != 1:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
