"""Measure what each part of the method brings: ``python -m bench.quality``.

Every row of the table is the pipeline with one thing changed (``--list`` shows them), run with three
random seeds, which change the classifier as well as the segmenter. A difference that is not larger than
what seeds alone make is called noise. Rows that are done are not run again, so the command can be
stopped and continued; their common stages are shared through DVC's cache; MLflow has each as a study
with the tag ``bench.row``. ``--at-once 2`` runs two data sets or seeds side by side, on half of the cores
each, which does more in the same time: the start of a process keeps one core busy at most.

    python -m bench.quality --at-once 2                       # both drawn data sets, small: about 3 hours
    python -m bench.quality --rows chain --seeds 0            # a part of it
    python -m bench.quality --data ~/coco6 --held-out 180 80  # a folder; only its training pictures
    python -m bench.quality --data ~/coco6 --size full --rows round-2 reference
    python -m bench.quality --keep-older                      # code was changed that changes no result
    python -m bench.quality --table                           # only write docs/quality.md again

Numbers go to ``bench/quality/results.json``, the table to ``docs/quality.md``.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from datetime import timedelta
from pathlib import Path
from typing import Any

from bench.quality.data import DRAWN, SIZES, DataSet, Size, prepare_data
from bench.quality.rows import ROWS, Row, choose_rows, list_jobs
from bench.quality.run import Bench
from bench.quality.table import write_table
from tasks import console
from tasks.errors import UserError
from tasks.workspace import WORK, replace_whole

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("results.json")
TABLE = ROOT / "docs" / "quality.md"
_KEEPING = threading.Lock()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    options = _parse(arguments)
    try:
        if options.list:
            columns = ("row", "what is different", "measured against")
            console.print_table("", columns, [(row.name, row.about, row.against) for row in ROWS])
            return 0
        if not options.table:
            measure(options)
        write_table(_read(), TABLE)
        console.say(f"table: {TABLE.relative_to(ROOT)}")
    except UserError as error:
        console.fail(str(error))
        return 2
    return 0


def measure(options: argparse.Namespace) -> None:
    """Run every row that is not done, and keep each one's numbers as soon as it is."""
    size = SIZES[options.size]
    place = ROOT / WORK / "quality"
    held_out = tuple(options.held_out) if options.held_out else None
    sets = [prepare_data(name, size, place, held_out=held_out) for name in options.data]
    rows = choose_rows(options.rows)
    stopping = threading.Event()
    with ThreadPoolExecutor(options.at_once) as pool:
        running = [
            pool.submit(_measure_seed, data, size, seed, own, options, stopping)
            for seed, own in list_jobs(rows, options.seeds)
            for data in sets
        ]
        try:
            for ended in as_completed(running):
                ended.result()
        except BaseException:
            stopping.set()  # what runs ends with its row
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _measure_seed(
    data: DataSet,
    size: Size,
    seed: int,
    rows: Sequence[Row],
    options: argparse.Namespace,
    stopping: threading.Event,
) -> None:
    known = f"{data.name} {size.name}"
    bench = Bench.open(ROOT, data, size, mark=str(seed), at_once=options.at_once)
    for number, row in enumerate(rows, start=1):
        if stopping.is_set():
            return
        mark = bench.configure(row, seed)
        title = f"{known}, seed {seed}: {row.name} ({number} of {len(rows)})"
        done = _read().get(known, {}).get(row.name, {}).get(str(seed), {})
        if is_done(done.get("mark", ""), mark, keep_older=options.keep_older):
            console.say(f"{title}: done before")
            continue
        console.say(title)
        found = bench.run(row, seed, on_line=_show if options.verbose else _hide)
        _keep(known, row.name, seed, {"mark": mark, **found})
        said = " ".join(f"{name} {value:g}" for name, value in found.items() if name != "seconds")
        console.say(f"{title}: {timedelta(seconds=round(found['seconds']))}  {said}")
    bench.close()


def is_done(known: str, mark: str, *, keep_older: bool) -> bool:
    """Tell whether numbers are of the same settings, and of the same code unless older ones are kept."""
    return known == mark or (keep_older and known.partition("-")[0] == mark.partition("-")[0])


def _show(line: str) -> None:
    if not line.startswith(console.PROGRESS_PREFIX):
        console.say(f"  {line}")


def _hide(line: str) -> None:
    del line


def _read() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    return found


def _keep(known: str, row: str, seed: int, numbers: dict[str, Any]) -> None:
    with _KEEPING:
        results = _read()
        results.setdefault(known, {}).setdefault(row, {})[str(seed)] = numbers
        with replace_whole(RESULTS) as partial:
            partial.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _count(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", nargs="+", default=list(DRAWN), help="synthetic, defects, or folders")
    parser.add_argument("--rows", nargs="+", default=["all"], help="rows or groups (default: all)")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--size", choices=tuple(SIZES), default="small")
    parser.add_argument(
        "--held-out",
        nargs=2,
        type=int,
        metavar=("TRAIN", "VAL"),
        help="of folders: so many training pictures to train on, so many others to score on",
    )
    parser.add_argument(
        "--at-once", type=_count, default=1, help="data sets or seeds side by side (default: 1)"
    )
    parser.add_argument(
        "--keep-older",
        action="store_true",
        help="leave what was measured with the same settings, whatever was changed in the code since",
    )
    parser.add_argument("--list", action="store_true", help="show the rows and stop")
    parser.add_argument("--table", action="store_true", help="write the table from what was measured")
    parser.add_argument("--verbose", action="store_true", help="show what stages say")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
