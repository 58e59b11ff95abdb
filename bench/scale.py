"""See what stays flat up to 100,000 pictures, and as many shards: ``python -m bench.scale``.

Four things, each on ever larger data sets:

* ``stages``: those that map over shards, for real, on drawn pictures of 64 pixels and networks trained on the
  smallest set: seconds and CPU seconds a shard, and the largest resident size of the stage's process.
* ``folders``: ingest of a folder of so many photographs, of 48 pixels, named in ``labels.csv``.
* ``maps``: jobs that do nothing, handed out as shards are, by threads and by a Dask cluster of two worker
  processes: seconds a job, and the resident size of the process that hands them out.
* ``versions``: ``dvc add`` of a folder of so many files of shards, and of one note about as many objects.

Writes ``bench/scale.json``.

    python -m bench.scale                                # an hour and a quarter on two cores
    python -m bench.scale maps versions                  # the rest as measured before
    python -m bench.scale stages --pictures 1000 10000
    python -m bench.scale stages --until ingest          # the other stages as measured before
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.growth import ROOT, Cost, run_stage
from bench.results import draw_table, read_result, write_result
from dsrg.store import SHARD_IMAGES
from tasks.shards import map_shards
from tests.tiny_project import build_params, write_params

SIDE = 64
_PHOTOGRAPH = 48
MIB = 2**20
STAGES = ("ingest", "cams", "cues", "baseline", "relabel@1", "refine@1", "evaluate@1")
BEFORE = ("ingest", "classify", "cams", "cues", "train@1")  # once, for the networks
NETWORKS = ("data/classifier.safetensors", "data/rounds/1/segmenter.safetensors")
Row = dict[str, Any]


# -- stages ------------------------------------------------------------------------------------


def write_project(root: Path, pictures: int) -> None:
    """Write params of so many tiny pictures, a fifth of them to score, and of as little work as may be."""
    view = {"scales": (1.0,), "flip": False}
    params = build_params(
        source={"num_train": pictures - pictures // 5, "num_val": pictures // 5, "size": SIDE},
        ingest={"canvas": SIDE},
        classify={"crop_size": 32},
        cams={"size": 32, "affinity_power": 0.0, **view},
        cues={"rule": "threshold", "crf": {"iterations": 1}},
        train={"crop_size": 32},
        relabel=view,
        refine={"crf": {"iterations": 1}},
        evaluate={"crf": {"iterations": 1}, **view},
        compute={"workers": 2},
    )
    root.mkdir(parents=True)
    write_params(params, root)


def measure_stages(counts: Sequence[int], stages: Sequence[str] = STAGES) -> Iterator[Row]:
    """Run the stages on every size; what a stage costs at the smallest is its start, and is taken off."""
    first = BEFORE if len(stages) > 1 else BEFORE[:1]
    start: dict[str, Cost] = {}
    with tempfile.TemporaryDirectory() as name:
        smallest = Path(name) / str(counts[0])
        for count in counts:
            root = Path(name) / str(count)
            write_project(root, count)
            for label in first if count == counts[0] else ():
                run_stage(root, label)
            for network in NETWORKS if count != counts[0] and first == BEFORE else ():
                (root / network).parent.mkdir(parents=True, exist_ok=True)
                (root / network).write_bytes((smallest / network).read_bytes())
            for label in stages:
                cost = run_stage(root, label)
                before = start.setdefault(label, cost)
                shards = (count - counts[0]) / SHARD_IMAGES
                row = {
                    "stage": label,
                    "pictures": count,
                    **{key: round(value, 2) for key, value in cost.items()},
                }
                if shards:
                    row["ms_a_shard"] = round(1000 * (cost["seconds"] - before["seconds"]) / shards, 1)
                print(row, flush=True)
                yield row


# -- folders -----------------------------------------------------------------------------------


def write_folder(root: Path, pictures: int) -> None:
    """Write so many JPEGs of noise, no two alike, of five classes."""
    rng = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    lines = ["id,classes"]
    for number in range(pictures):
        coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
        picture = Image.fromarray(coarse).resize((_PHOTOGRAPH, _PHOTOGRAPH))
        picture.save(root / "images" / f"photo-{number:07d}.jpg")
        lines.append(f"photo-{number:07d},class-{number % 5}")
    (root / "labels.csv").write_text("\n".join(lines) + "\n")


def measure_folders(counts: Sequence[int]) -> Iterator[Row]:
    """Ingest folders of so many files."""
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            folder, root = Path(name) / "photographs", Path(name) / "project"
            write_folder(folder, count)
            params = build_params(
                source={"kind": "folder", "path": str(folder)},
                ingest={"canvas": SIDE},
                compute={"workers": 2},
            )
            root.mkdir()
            write_params(params, root)
            cost = run_stage(root, "ingest")
        row = {"pictures": count, **{key: round(value, 2) for key, value in cost.items()}}
        print(row, flush=True)
        yield row


# -- maps --------------------------------------------------------------------------------------


def do_nothing(job: int) -> int:
    """Do the work of a shard, but for the work."""
    return job


def measure_maps(counts: Sequence[int]) -> Iterator[Row]:
    """Hand out jobs that do nothing, each in a process of its own."""
    for way in ("threads", "local"):
        for count in counts:
            command = [sys.executable, "-m", "bench.scale", "--child", way, "--jobs", str(count)]
            said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
            seconds, mib = said.splitlines()[-1].split()
            name = "threads" if way == "threads" else "Dask, 2 workers"
            row = {"way": name, "jobs": count, "ms_a_job": round(1000 * float(seconds) / count, 4)}
            row["mib"] = round(float(mib), 1)
            print(row, flush=True)
            yield row


def hand_out(way: str, count: int) -> None:
    """Hand out so many jobs, and say seconds and the largest resident size of this process in MiB."""
    compute = build_params(compute={"workers": 2, "cluster": "none" if way == "threads" else way}).compute
    jobs = range(count)  # what the jobs themselves weigh is not asked here
    list(map_shards(do_nothing, jobs[:2], compute=compute, description="begin", in_threads=True))
    began = time.perf_counter()
    for _ in map_shards(do_nothing, jobs, compute=compute, description="jobs", in_threads=True):
        pass
    seconds = time.perf_counter() - began
    print(f"\n{seconds} {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}")


# -- versions ----------------------------------------------------------------------------------


def measure_versions(counts: Sequence[int]) -> Iterator[Row]:
    """Add folders of files, and notes, to DVC; what one file costs at the smallest is taken off."""
    start = 0.0
    for count in counts:
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            for command in (["git", "init", "-q"], ["dvc", "init", "-q"]):
                subprocess.run(command, cwd=root, check=True, env=_environment())
            shards = root / "images.zarr" / "image" / "c"
            shards.mkdir(parents=True)
            for number in range(count):
                (shards / str(number)).write_bytes(number.to_bytes(8, "big") * 512)
            (root / "note.zarr").write_text(f'{{"objects": {count}}}')
            row: Row = {"objects": count}
            for what in ("images.zarr", "note.zarr"):
                began = time.perf_counter()
                subprocess.run(["dvc", "add", "-q", what], cwd=root, check=True, env=_environment())
                row["seconds" if what == "images.zarr" else "note_seconds"] = round(
                    time.perf_counter() - began, 2
                )
            start = start or row["seconds"]
            if row["seconds"] != start:
                row["ms_an_object"] = round(1000 * (row["seconds"] - start) / (count - counts[0]), 2)
            print(row, flush=True)
            yield row


def _environment() -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, "DVC_NO_ANALYTICS": "1"}


def main() -> None:
    """Measure, print tables, write the numbers."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.scale",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="*", default=["stages", "folders", "maps", "versions"])
    parser.add_argument("--pictures", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to measure")
    parser.add_argument("--jobs", nargs="+", type=int, default=[1000, 10_000, 100_000])
    parser.add_argument("--objects", nargs="+", type=int, default=[10, 1000, 10_000])
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        hand_out(options.child, options.jobs[0])
        return
    numbers = {key: value for key, value in read_result(__file__).items() if isinstance(value, list)}
    stages = STAGES[: STAGES.index(options.until) + 1]
    measures = {
        "stages": lambda: measure_stages(options.pictures, stages),
        "folders": lambda: measure_folders(options.pictures),
        "maps": lambda: measure_maps(options.jobs),
        "versions": lambda: measure_versions(options.objects),
    }
    for what in options.what:
        earlier = [row for row in numbers.get(what, []) if row.get("stage", STAGES[0]) not in stages]
        numbers[what] = [*measures[what](), *earlier]
        head = list(dict.fromkeys(key for row in numbers[what] for key in row))
        print(draw_table(head, [[str(row.get(key, "")) for key in head] for row in numbers[what]]))
        write_result(__file__, **numbers)


if __name__ == "__main__":
    main()
