"""Reckon what data sets of 10,000 to 100 million pictures need: ``python -m bench.planning``.

Reads what the other benches measured, measures nothing, and writes the tables of ``docs/planning.md`` between
their marks. The formulas are those that stand there; what a store holds is that of :mod:`dsrg.store`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from bench.pictures import build_index
from bench.results import draw_table
from bench.speed import HERE, VOC, Row, pick, read, write_page
from dsrg.store import SHARD_IMAGES, SHARD_LABEL_MAPS
from tasks.estimates import estimate_run
from tasks.params import read_params

PAGE = HERE.parent / "docs" / "planning.md"
COUNTS = (10_000, 1_000_000, 100_000_000)
CPU, GPU = "AMD EPYC, 2 cores, 32-true", "NVIDIA H200, 16 cores, 32-true"
SIZE = (240, 320)  # of a picture on the canvas
ROUNDS = 2
MAPPED = {"cams": "CAMs", "relabel": "relabelling, two rounds", "crf": "CRFs", "evaluate": "scores"}
TRAINED = {"classify": "classifier", "train": "first round", "retrain": "second round"}
_FIXED = {"images": 12, "saliency": 2, "truth": 2, "cams": 2, "cues": 2}  # objects without pixels


def count_shards(pictures: int) -> tuple[int, int]:
    """Count the shards of pictures (and scores by class), and of label maps."""
    return -(-pictures // SHARD_IMAGES), -(-pictures // SHARD_LABEL_MAPS)


def count_objects(pictures: int) -> int:
    """Count the objects (files, on a disk) of all stores of a run.

    Examples
    --------
    >>> count_objects(256)
    45
    """
    of_pictures, of_labels = count_shards(pictures)
    once = 2 * of_pictures + 2 * of_labels + sum(_FIXED.values())
    return once + ROUNDS * (of_pictures + 2 * of_labels + 6)


def count_jobs(pictures: int) -> int:
    """Count the jobs of a run: pictures, masks, CAMs, cues; predictions, seeds and labels of rounds."""
    of_pictures, of_labels = count_shards(pictures)
    return 2 * of_pictures + 2 * of_labels + ROUNDS * (of_pictures + 2 * of_labels)


def measure_picture() -> float:
    """Reckon the bytes of a picture in all stores, as ``dsrg check`` does."""
    params = read_params(HERE.parent / "params.yaml")
    disk = []
    for count in (1000, 2000):
        index = build_index(count, size=SIZE)
        disk.append(estimate_run(params, index, ingest_seconds=0, has_masks=True)["disk_bytes"])
    return (disk[1] - disk[0]) / 1000


def list_rates() -> Iterator[Row]:
    """List what one picture costs: milliseconds by machine."""
    ingest = pick(read("reading")["rows"], what="ingest of 1000, s", peer="ingest")["value"]
    yield "reading (ingest)", "map", f"{ingest:.1f}", "", "reading"
    demo = read("presets")["demo"]
    for kinds, how in ((MAPPED, "map"), (TRAINED, "train")):
        for kind, name in kinds.items():
            cells = (f"{3.6e6 * demo[machine]['voc_hours'][kind] / VOC:.1f}" for machine in (CPU, GPU))
            yield name, how, *cells, "presets"


def sum_hours(pictures: int, machine: str) -> tuple[float, float]:
    """Sum up the hours of work that maps over shards, and of trainings."""
    hours = read("presets")["demo"][machine]["voc_hours"]
    ingest = pick(read("reading")["rows"], what="ingest of 1000, s", peer="ingest")["value"] / 1000 / 3600
    mapped = sum(hours[kind] for kind in MAPPED) * pictures / VOC + ingest * pictures
    return mapped, sum(hours[kind] for kind in TRAINED) * pictures / VOC


def find_memory() -> tuple[float, float]:
    """Find a stage's largest process on almost nothing, MiB, and the KiB that one more picture adds."""
    scale = read("scale")
    rows = [*scale["stages"], *({"stage": "ingest of a folder", **row} for row in scale["folders"])]
    counts = sorted({row["pictures"] for row in rows})
    start = max(row["mib"] for row in rows if row["pictures"] == counts[0])
    more = []
    for stage in {row["stage"] for row in rows}:
        small, large = (pick(rows, stage=stage, pictures=count)["mib"] for count in (counts[0], counts[-1]))
        more.append((large - small) * 1024 / (counts[-1] - counts[0]))
    return start, max(more)


def list_needs() -> Iterator[Row]:
    """List what data sets of every size need."""
    scale = read("scale")
    dask = max((row for row in scale["maps"] if row["way"].startswith("Dask")), key=lambda row: row["jobs"])
    dvc = max(row.get("ms_an_object", 0) for row in scale["versions"])
    start, more = find_memory()
    each = measure_picture()

    def reckon(pictures: int) -> dict[str, str]:
        of_pictures, of_labels = count_shards(pictures)
        return {
            "shards of pictures, of label maps": f"{of_pictures:,}; {of_labels:,}",
            "objects in stores": f"{count_objects(pictures):,}",
            "jobs of shards": f"{count_jobs(pictures):,}",
            "stores": _say_bytes(each * pictures),
            "mapped work, two CPU cores": _say_hours(sum_hours(pictures, CPU)[0]),
            "mapped work, one H200": _say_hours(sum_hours(pictures, GPU)[0]),
            "trainings, two CPU cores": _say_hours(sum_hours(pictures, CPU)[1]),
            "trainings, one H200": _say_hours(sum_hours(pictures, GPU)[1]),
            "handing out jobs (Dask)": _say_hours(count_jobs(pictures) * dask["ms_a_job"] / 3.6e6),
            "DVC, stores below `data/`": _say_hours(count_objects(pictures) * dvc / 3.6e6),
            "memory of a stage's process": _say_bytes((start + more * pictures / 1024) * 2**20),
        }

    reckoned = [reckon(pictures) for pictures in COUNTS]
    for what in reckoned[0]:
        yield what, *(column[what] for column in reckoned)


def list_stages() -> Iterator[Row]:
    """List what stayed flat: seconds a shard and memory of the stages that map over shards."""
    rows = read("scale")["stages"]
    counts = sorted({row["pictures"] for row in rows})
    for stage in dict.fromkeys(row["stage"] for row in rows):
        found = [pick(rows, stage=stage, pictures=count) for count in counts]
        yield (
            stage,
            *(f"{row['seconds']:.0f}" for row in found),
            *(f"{row['ms_a_shard']:.0f}" for row in found[1:]),
            *(f"{row['mib']:.0f}" for row in found),
        )


def list_folders() -> Iterator[Row]:
    """List what ingest of a folder of so many photographs takes."""
    for row in read("scale")["folders"]:
        each = 1000 * row["seconds"] / row["pictures"]
        yield f"{row['pictures']:,}", f"{row['seconds']:.0f}", f"{each:.2f}", f"{row['mib']:.0f}"


def list_maps() -> Iterator[Row]:
    """List what handing out jobs that do nothing costs."""
    rows = read("scale")["maps"]
    counts = sorted({row["jobs"] for row in rows})
    for way in dict.fromkeys(row["way"] for row in rows):
        found = [pick(rows, way=way, jobs=count) for count in counts]
        yield way, *(f"{row['ms_a_job']:.3f}" for row in found), *(f"{row['mib']:.0f}" for row in found)


def list_versions() -> Iterator[Row]:
    """List what DVC takes by number of files."""
    for row in read("scale")["versions"]:
        each = f"{row['ms_an_object']:.2f}" if "ms_an_object" in row else ""
        yield f"{row['objects']:,}", f"{row['seconds']:.1f}", each, f"{row['note_seconds']:.1f}"


def _say_hours(hours: float) -> str:
    if hours < 1 / 60:
        return f"{3600 * hours:.0f} s"
    if hours < 2:
        return f"{60 * hours:.0f} min"
    return f"{hours:.0f} h" if hours < 72 else f"{hours / 24:,.0f} days"


def _say_bytes(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1e6:.0f} MB"


def build_tables() -> dict[str, str]:
    """Build every table of the page by the name of its mark."""
    scale = read("scale")
    counts = sorted({row["pictures"] for row in scale["stages"]})
    jobs = sorted({row["jobs"] for row in scale["maps"]})
    stages_head = ("stage", *(f"{n:,}: s" for n in counts), *(f"{n:,}: ms a shard" for n in counts[1:]))
    return {
        "rates": draw_table(
            ("", "kind", "two CPU cores, ms", "one H200, ms", "`python -m bench.`"), list_rates(), left=2
        ),
        "needs": draw_table(("", *(f"{count:,}" for count in COUNTS)), list_needs()),
        "stages": draw_table((*stages_head, *(f"{n:,}: MiB" for n in counts)), list_stages()),
        "folders": draw_table(("photographs", "s", "ms each", "MiB"), list_folders()),
        "maps": draw_table(
            ("", *(f"{n:,} jobs: ms each" for n in jobs), *(f"{n:,}: MiB" for n in jobs)), list_maps()
        ),
        "versions": draw_table(
            ("files of shards", "`dvc add`, s", "ms a file", "of a note, s"), list_versions()
        ),
    }


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(prog="python -m bench.planning", description=__doc__.splitlines()[0]).parse_args()
    write_page(PAGE, build_tables())
    print(Path(PAGE).relative_to(HERE.parent))


if __name__ == "__main__":
    main()
