"""Set what the benches measured against what was asked of them: ``python -m bench.speed``.

Reads the JSON beside the benches, measures nothing, and writes the tables of ``docs/speed.md`` between their
marks; what stands around them is written by hand.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bench.results import draw_table

HERE = Path(__file__).resolve().parent
PAGE = HERE.parent / "docs" / "speed.md"
MINUTES_5 = 300.0
VOC, MILLION = 10_582, 1_000_000
Row = tuple[str, ...]
Rows = list[dict[str, Any]]


def read(name: str) -> dict[str, Any]:
    """Read what a bench has measured."""
    found: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    return found


def pick(rows: Rows, **wanted: object) -> dict[str, Any]:
    """Pick the one row that holds these values."""
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row


# -- what was asked ----------------------------------------------------------------------------


def list_ratios() -> Iterator[Row]:
    """List every path: what, against what, asked, measured, bench."""
    yield from _list_kernels()
    yield from _list_crf()
    yield from _list_flows()


def _list_kernels() -> Iterator[Row]:
    growing = read("growing")["rows"]
    for size, asked in ((41, 1500), (321, 3000)):
        ours = pick(growing, size=size, peer="grow_seeds")
        what = f"growing, {size} x {size}, 3 of 21 classes present"
        against = "the rule as a plain loop; the authors' own, timed elsewhere"
        measured = f"{ours['times_slow_loop']:.0f}; {ours['times_published_official']:.0f}"
        yield what, against, f"{asked} x", f"{measured} x", "growing"
        scipy = pick(growing, size=size, peer="scipy label per class")["ms"] / ours["ms"]
        yield what, "`scipy.ndimage.label` per class", "20 x", f"{scipy:.0f} x", "growing"


def _list_crf() -> Iterator[Row]:
    rows = read("crf")["rows"]
    whole = [row for row in rows if row["peer"] == "lattice, present" and "," in row["what"]]
    for key, against, asked in (
        ("times_all_classes", "pydensecrf, 21 classes", "5 x"),
        ("times_present", "pydensecrf, present classes", "2.5 x"),
    ):
        values = [row[key] for row in whole]
        measured = f"{min(values):.1f} to {max(values):.1f} x"
        yield "CRF of a picture, one thread", against, asked, measured, "crf"
    shards = read("shards")["rows"]
    best = max(row["times"] for row in shards)
    yield "CRF of a data set, 2 cores", "one thread", "1.8 x", f"{best:.2f} x", "shards"
    batch = pick(rows, what="20 x 41x41", peer="lattice, present")
    yield (
        *("CRF in training, batch of 20", "pydensecrf, 21 classes, one thread", "6 x"),
        *(f"{batch['times_all_classes_clock']:.1f} x ({batch['times_all_classes']:.1f} by CPU time)", "crf"),
    )
    step = read("training_step")["parts"]
    share = f"{step['crf']['share']:.1%}"
    yield "CRF in training", "the whole step", "under 10%", share, "training_step"
    share = f"{step['growing']['share']:.2%}"
    yield "growing in training", "the whole step", "", share, "training_step"


def _list_flows() -> Iterator[Row]:
    loop = "a loop: one picture, one scale at a time, .npy files"
    for way, number in (("stage", "float32"), ("stage, bfloat16", "bfloat16")):
        cams = pick(read("cams")["rows"], way=way)
        yield f"CAMs, 3 scales, flipped, {number}", loop, "3 x", f"{cams['times']:.1f} x", "cams"
    yield "CAMs on the disk", loop, "20 x", f"{cams['times_smaller']:.0f} x smaller", "cams"
    training = pick(read("training")["rows"], peer="stage")
    plain = "a plain torch loop, JPEG folder, PIL"
    yield "training, pictures a second", plain, "1 x", f"{training['times']:.2f} x", "training"
    wait = f"{training['data_wait']:.1%}"
    yield "training, wait for data", "the step", "under 5%", wait, "training"
    for row in read("reading")["rows"]:
        if row["peer"] in ("ingest", "store"):
            asked = "1.3 x" if row["peer"] == "store" else "1.7 x"
            what = row["what"].rpartition(",")[0]
            yield what, "PIL: decode and scale", asked, f"{row['times']:.2f} x", "reading"
    doors = read("doors")
    whole = pick(doors["rows"], stage="in all")
    for door in ("dvc repro", "dsrg run"):
        more = whole[door] - whole["functions"]
        share = f"{more:.0f} s: {more / MINUTES_5:.0%} of 5 minutes"
        yield f"`{door}`, 15 stages", "the same functions in one process", "3%", share, "doors"
    nothing = doors["nothing_to_do"]
    yield "`dvc repro`, nothing to do", "", "3 s", f"{nothing['dvc repro']:.1f} s", "doors"
    yield "`dsrg run`, nothing to do", "", "15 s", f"{nothing['dsrg run']:.1f} s", "doors"
    growth = read("growth")["rows"]
    largest = max(row["pictures"] for row in growth)
    worst = max((row for row in growth if row["pictures"] == largest), key=lambda row: row["memory"])
    smallest = min(row["pictures"] for row in growth)
    measured = f"{worst['memory']:.2f} x at most ({worst['stage']})"
    yield f"memory, {largest} pictures", f"{smallest} pictures", "1.1 x", measured, "growth"


# -- where the time goes, and how it grows -----------------------------------------------------


def list_growth() -> Iterator[Row]:
    """List what a stage costs by number of pictures: seconds, ms a picture, MiB."""
    rows = read("growth")["rows"]
    counts = sorted({row["pictures"] for row in rows})
    for stage in dict.fromkeys(row["stage"] for row in rows):
        found = [pick(rows, stage=stage, pictures=count) for count in counts]
        yield (
            stage,
            *(f"{row['seconds']:.0f}" for row in found),
            *(f"{row['ms_per_picture']:.1f}" if row["time"] else "" for row in found),
            *(f"{row['mib']}" for row in found),
        )


def list_profile(name: str) -> Iterator[Row]:
    """List seconds of threads by kind of work and stage, both rounds of a stage together."""
    run = read("profile")["runs"][name]
    stages = list(dict.fromkeys(label.partition("@")[0] for label in run["seconds"]))
    clock = dict.fromkeys(stages, 0.0)
    kinds: dict[str, dict[str, float]] = {}
    for label, seconds in run["seconds"].items():
        stage = label.partition("@")[0]
        clock[stage] += seconds
        for kind, value in run["thread_seconds"][label].items():
            of_kind = kinds.setdefault(kind, dict.fromkeys(stages, 0.0))
            of_kind[stage] += value
    yield "", *stages, "in all"
    yield "**by the clock**", *(f"{clock[stage]:.0f}" for stage in stages), f"{sum(clock.values()):.0f}"
    for kind, values in sorted(kinds.items(), key=lambda item: -sum(item[1].values())):
        if sum(values.values()) >= 1:
            cells = (f"{values[stage]:.0f}" if values[stage] >= 0.5 else "" for stage in stages)
            yield kind, *cells, f"{sum(values.values()):.0f}"


def list_estimates() -> Iterator[Row]:
    """List hours of a whole run by preset and machine: VOC 2012's training pictures, and a million."""
    for preset, machines in read("presets").items():
        for machine, found in machines.items():
            hours = found["voc_hours_in_all"]
            million = hours * MILLION / VOC / 24
            eight = f"{million / 8:.1f}" if "NVIDIA" in machine else ""
            yield preset, machine, f"{hours:.1f}", f"{million:.1f}", eight


# -- the page ----------------------------------------------------------------------------------


def build_tables() -> dict[str, str]:
    """Build every table of the page by the name of its mark."""
    counts = sorted({row["pictures"] for row in read("growth")["rows"]})
    growth_head = ("stage", *(f"{n}: s" for n in counts), *(f"{n}: ms each" for n in counts))
    tables = {
        "ratios": draw_table(
            ("what", "against", "asked", "measured", "`python -m bench.`"), list_ratios(), left=2
        ),
        "growth": draw_table((*growth_head, *(f"{n}: MiB" for n in counts)), list_growth(), left=2),
        "estimates": draw_table(
            ("preset", "machine", "VOC 2012, hours", "a million pictures, days", "on eight GPUs, days"),
            list_estimates(),
            left=2,
        ),
    }
    for name in read("profile")["runs"]:
        head, *rows = list_profile(name)
        tables[f"profile {name}"] = draw_table(head, rows, left=2)
    return tables


def write_page(page: Path, tables: dict[str, str]) -> None:
    """Put the tables between their marks.

    Raises
    ------
    ValueError
        The page lacks a mark.
    """
    text = page.read_text(encoding="utf-8")
    for name, table in tables.items():
        pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- end -->)", re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"`{page}` has no <!-- {name} --> with an <!-- end --> after it")
        text = pattern.sub(lambda match, table=table: f"{match[1]}{table}\n{match[2]}", text)
    page.write_text(text, encoding="utf-8")


def main() -> None:
    """Write the page anew."""
    argparse.ArgumentParser(prog="python -m bench.speed", description=__doc__.splitlines()[0]).parse_args()
    write_page(PAGE, build_tables())
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
