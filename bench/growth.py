"""Time and weigh every stage on ever larger data sets: ``python -m bench.growth``.

Drawn pictures of 96 pixels, a small network, one epoch: what is measured is how time and memory grow, not
how fast a stage is. Each stage is a process of its own, as DVC runs it; its memory is the largest resident
size of it or of one of its worker processes. The last columns say by how much the seconds per picture and
the memory differ from those of the smallest data set, after the seconds of a stage's start, measured on
almost nothing, are taken off. Writes ``bench/growth.json``.

    python -m bench.growth                        # 500 and 2000 pictures
    python -m bench.growth --pictures 500 2000 8000
    python -m bench.growth --pictures 500 2000 8000 --until ingest    # the rest as measured before
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench.results import read_result, write_result
from tests.tiny_project import build_params, write_params

ROOT = Path(__file__).resolve().parent.parent
FEW = 16
LEAST = 0.0005  # seconds a picture: what costs less does not grow with the pictures
STAGES = (
    "ingest",
    "classify",
    "cams",
    "cues",
    "baseline",
    *(f"{stage}@{key}" for key in ("1", "2") for stage in ("train", "relabel", "refine", "evaluate")),
    "reference",
    "report",
)
Cost = dict[str, float]


def measure(pictures: int, stages: Sequence[str], *, workers: int) -> dict[str, Cost]:
    """Run stages on so many pictures, a fifth of them to score; seconds and MiB of each."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        params = build_params(
            source={"num_train": pictures - pictures // 5, "num_val": pictures // 5},
            reference={"enabled": False},
            compute={"workers": workers},
        )
        write_params(params, root)
        return {label: run_stage(root, label) for label in stages}


def run_stage(root: Path, label: str) -> Cost:
    """Run one stage in a process; its seconds, CPU seconds and largest resident size in MiB."""
    stage, _, key = label.partition("@")
    command = [sys.executable, "-m", "tasks", stage, "--root", str(root), *(["--round", key] if key else [])]
    log = root / "log"
    began = time.perf_counter()
    with log.open("wb") as file:
        child = subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{label}: {log.read_text(errors='replace')[-2000:]}")
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "mib": usage.ru_maxrss / 1024,
    }


def list_rows(costs: dict[int, dict[str, Cost]]) -> list[dict[str, Any]]:
    """List what every stage costs at every size, against the smallest."""
    counts = sorted(costs)
    start, smallest = counts[0], counts[1]
    rows = []
    for label in costs[start]:
        first = costs[smallest][label]
        each = (first["seconds"] - costs[start][label]["seconds"]) / (smallest - start)
        for count in counts[1:]:
            cost = costs[count][label]
            spent = (cost["seconds"] - costs[start][label]["seconds"]) / (count - start)
            rows.append(
                {
                    "stage": label,
                    "pictures": count,
                    "seconds": round(cost["seconds"], 2),
                    "mib": round(cost["mib"]),
                    "ms_per_picture": round(1000 * spent, 2),
                    "time": round(spent / each, 3) if each >= LEAST else None,
                    "memory": round(cost["mib"] / first["mib"], 3),
                }
            )
    return rows


def main() -> None:
    """Measure, print a table, write the numbers."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.growth",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--pictures", nargs="+", type=int, default=[500, 2000])
    parser.add_argument("--workers", type=int, default=0, help="processes of mapped work; 0 is all cores")
    parser.add_argument("--until", choices=STAGES, default=STAGES[-1], help="the last stage to measure")
    options = parser.parse_args()
    stages = STAGES[: STAGES.index(options.until) + 1]
    costs = {}
    for count in (FEW, *sorted(options.pictures)):
        costs[count] = measure(count, stages, workers=options.workers)
        total = sum(cost["seconds"] for cost in costs[count].values())
        slowest = sorted(costs[count], key=lambda label: -costs[count][label]["seconds"])[:4]
        most = ", ".join(f"{label} {costs[count][label]['seconds']:.0f}" for label in slowest)
        print(f"{count} pictures: {total:.0f} s ({most})", flush=True)
    rows = list_rows(costs)
    print(f"{'stage':<12} {'pictures':>8} {'s':>9} {'MiB':>7} {'ms each':>9} {'x time':>7} {'x memory':>9}")
    for row in rows:
        print(
            f"{row['stage']:<12} {row['pictures']:>8} {row['seconds']:>9.2f} {row['mib']:>7} "
            f"{row['ms_per_picture']:>9.2f} {row['time'] or '':>7} {row['memory']:>9.3f}"
        )
    if stages != STAGES:
        earlier = read_result(__file__).get("rows", [])
        rows += [row for row in earlier if row["stage"] not in stages]
    write_result(__file__, rows=rows)


if __name__ == "__main__":
    main()
