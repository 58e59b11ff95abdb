"""Results of the ablation as one Markdown page."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.quality.rows import GROUPS, REFERENCE, ROWS, Row
from tasks.workspace import replace_whole

Runs = Mapping[str, Mapping[str, Any]]  # numbers by seed
_HEAD = """\
# What each part brings

Written by `python -m bench.quality --table` from `bench/quality/results.json`, which `python -m
bench.quality` measures (`--help`). mIoU in percent. **labels** are those of the training pictures after the
CRF; **val** is the network, as it is and with the CRF. A number is the mean over random seeds ± half of
their range; a seed decides the classifier and the segmenter. **Δ** is how much val, then val + CRF, differs
from that of the row named, over the seeds that both have, and from what to what by seed; where the mean is
not more than the range that seeds alone make in either row, it is called noise. **of ref** is the share of
the reference, the same network trained on the true masks for as many steps as two rounds take, without and
with the CRF. **min**: minutes that the row took beyond what it shares with the rows before it.
"""
_COLUMNS = (
    "row",
    "seeds",
    "cues",
    "labels",
    "val",
    "val + CRF",
    "Δ val",
    "Δ val + CRF",
    "against",
    "of ref",
    "min",
)


def write_table(results: Mapping[str, Mapping[str, Runs]], place: Path) -> None:
    """Write the page.

    Parameters
    ----------
    results : mapping
        ``{"synthetic small": {row: {seed: numbers}}}``.
    place : Path
    """
    parts = [_HEAD]
    for known in sorted(results):
        parts += [f"\n## {known}\n", "\n".join(_list_lines(results[known])), ""]
    with replace_whole(place) as partial:
        partial.write_text("\n".join(parts), encoding="utf-8")


def _list_lines(rows: Mapping[str, Runs]) -> Iterator[str]:
    yield f"| {' | '.join(_COLUMNS)} |"
    yield "|---|---:|---:|---:|---:|---:|---:|---:|---|---:|---:|"
    known = [row for row in (*ROWS, REFERENCE) if row.name in rows]
    for group, title in GROUPS.items():
        here = [row for row in known if row.group == group]
        if here and title:
            yield f"| **{title}** |" + " |" * (len(_COLUMNS) - 1)
        for row in here:
            yield _draw_row(row, rows)


def _draw_row(row: Row, rows: Mapping[str, Runs]) -> str:
    runs, base, reference = rows[row.name], rows.get(row.against, {}), rows.get(REFERENCE.name, {})
    cells = [
        row.about,
        str(len(runs)),
        *(describe_spread(_take(runs, name)) for name in ("cues", "pseudo_labels", "val", "val_crf")),
        *(describe_difference(runs, base, name=name) if row.against else "" for name in ("val", "val_crf")),
        row.against,
        describe_share(runs, reference) if row.has_reference else "",
        f"{statistics.mean(_take(runs, 'seconds')) / 60:.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def _take(runs: Runs, name: str) -> list[float]:
    return [numbers[name] for _, numbers in sorted(runs.items()) if name in numbers]


def describe_spread(values: Sequence[float]) -> str:
    """Describe values by their mean and half their range.

    Examples
    --------
    >>> describe_spread([50.0, 52.0]), describe_spread([50.0]), describe_spread([])
    ('51.0 ± 1.0', '50.0', '')
    """
    if not values:
        return ""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {(max(values) - min(values)) / 2:.1f}" if len(values) > 1 else mean


def describe_difference(runs: Runs, base: Runs, *, name: str = "val_crf") -> str:
    """Describe how much better `runs` are than `base`, from what to what by seed, or that it is noise.

    Examples
    --------
    >>> base = {"0": {"val_crf": 50.0}, "1": {"val_crf": 52.0}}
    >>> describe_difference({"0": {"val_crf": 54.0}, "1": {"val_crf": 56.0}}, base)
    '+4.0 (+4.0 to +4.0)'
    >>> describe_difference({"0": {"val_crf": 51.0}, "1": {"val_crf": 52.5}}, base)
    'noise: +0.8 (+0.5 to +1.0)'
    >>> describe_difference({"0": {"val_crf": 51.0}}, base)
    '+1.0, one seed'
    """
    both = sorted(set(runs) & set(base))
    if not both:
        return ""
    here, there = ([table[seed][name] for seed in both] for table in (runs, base))
    difference = statistics.mean(here) - statistics.mean(there)
    if len(both) == 1:
        return f"{difference:+.1f}, one seed"
    spread = max(max(here) - min(here), max(there) - min(there))
    by_seed = [ours - theirs for ours, theirs in zip(here, there, strict=True)]
    said = f"{difference:+.1f} ({min(by_seed):+.1f} to {max(by_seed):+.1f})"
    return said if abs(difference) > spread else f"noise: {said}"


def describe_share(runs: Runs, reference: Runs) -> str:
    """Describe the share of the reference that is reached, as it is and with the CRF, in percent.

    Examples
    --------
    >>> describe_share({"0": {"val": 45.0, "val_crf": 48.0}}, {"0": {"val": 50.0, "val_crf": 60.0}})
    '90, 80'
    """
    both = sorted(set(runs) & set(reference))
    if not both:
        return ""
    shares = (
        statistics.mean(100 * runs[seed][name] / reference[seed][name] for seed in both)
        for name in ("val", "val_crf")
    )
    return ", ".join(f"{share:.0f}" for share in shares)
