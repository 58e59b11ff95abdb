"""What a person sees of ``dsrg check``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from dsrg.sources.base import MAX_LINES, SPLITS, count_things
from tasks import console
from tasks.check import write_run_command
from tasks.params import Params

_MAX_PAIRS = 5
_MAX_ALONE = 3
_MAX_NAMED = 20
_WHAT = {
    "folder": "a folder of pictures",
    "voc": "a VOCdevkit",
    "coco": "COCO's instances files and pictures",
    "synthetic": "drawn pictures",
}


def show_report(report: dict[str, Any], params: Params) -> None:
    """Print what :func:`tasks.check.check` found: counts, findings, estimates, then what is wrong."""
    console.say(f"{report['path']}: {_WHAT[report['kind']]} (source.kind: {report['kind']})")
    if "per_class" in report:
        _show_pictures(report)
    _show_lines("good to know", report["remarks"])
    _show_lines("worth a look", [*report.get("warnings", ()), *_list_pairs(report)])
    if "estimate" in report and not report["problems"]:
        _show_lines("roughly needed (from constants measured on two CPU cores)", report["estimate"]["lines"])
    problems = report["problems"]
    command = write_run_command(params)
    if not problems:
        console.say(f"\nnothing is wrong. Next: {command}")
        return
    _show_lines(f"wrong ({len(problems)})", list(_group_problems(problems)))
    console.say("\nnothing would be run on this: mend what is named above, then check again")
    if all("ingest.strict=false" in problem for problem in problems):
        console.say(f"or, if it is meant so: {command} --set ingest.strict=false")


def _group_problems(problems: Sequence[str]) -> Iterator[str]:
    """List problems, those of one reason together: the reason once, then its files."""
    files: dict[str, list[str]] = {}
    for problem in problems:
        name, separator, reason = problem.partition(": ")
        files.setdefault(reason if separator else problem, []).append(name if separator else "")
    for shown, (reason, names) in enumerate(files.items()):
        if shown == MAX_LINES:
            yield f"... and {len(files) - MAX_LINES} more: --json lists all"
            return
        if len(names) <= _MAX_ALONE:
            yield from (f"{name}: {reason}" if name else reason for name in names)
            continue
        more = f" ... and {len(names) - _MAX_NAMED} more: --json lists all" if len(names) > _MAX_NAMED else ""
        yield f"{len(names)} files: {reason}"
        yield f"  {', '.join(names[:_MAX_NAMED])}{more}"


def _show_pictures(report: dict[str, Any]) -> None:
    height, width = report["height"], report["width"]
    counts = " and ".join(f"{report['pictures'][split]} {split}" for split in SPLITS)
    given = "given" if report["split"] == "given" else "chosen by ingest, alike for every class"
    console.say(
        f"{sum(report['pictures'].values())} pictures: {counts} (split {given})\n"
        f"height {height['min']} to {height['max']}, median {height['median']}; "
        f"width {width['min']} to {width['max']}, median {width['median']}; "
        f"{report['scaled_down']} scaled down to the canvas"
    )
    columns = ["class", *SPLITS]
    rows = [
        [name, *(str(report["per_class"][split][name]) for split in SPLITS)] for name in report["classes"]
    ]
    rows.append(["pictures", *(str(report["pictures"][split]) for split in SPLITS)])
    console.print_table("Pictures per class", columns, rows)


def _list_pairs(report: dict[str, Any]) -> Iterator[str]:
    duplicates = report.get("duplicates")
    if not duplicates or not duplicates["first"]:
        return
    yield (
        f"{count_things(duplicates['equal'], 'pair')} of equal and {duplicates['near']} of nearly equal "
        "pictures "
        f"(up to {duplicates['max_bits']} of 64 bits differ):"
    )
    for pair in duplicates["first"][:_MAX_PAIRS]:
        marks = [
            "equal" if pair["equal"] else f"{pair['bits']} bits",
            *(["in both splits"] if pair["across_splits"] else []),
            *([] if pair["same_classes"] else ["other classes"]),
        ]
        yield f"  {' and '.join(pair['pictures'])}: {', '.join(marks)}"
    rest = duplicates["equal"] + duplicates["near"] - _MAX_PAIRS
    if rest > 0:
        yield f"  ... and {rest} more: --json lists {len(duplicates['first'])}"


def _show_lines(title: str, lines: list[str]) -> None:
    if lines:
        console.say(f"\n{title}:")
        for line in lines:
            console.say(f"  {line}")
