"""Line charts as SVG text: no file beside them, sharp at any width, in the colours of the page.

Lines carry the classes ``s0`` to ``s5``, the rest ``grid`` and ``level`` with ``l0``, ``l1``, …; the page's
style gives them their colours, so that a chart follows a dark page. Equal numbers give equal text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 360, 210
NUM_COLOURS = 6
_LEFT, _RIGHT, _TOP, _BOTTOM = 40, 10, 10, 32

Point = tuple[float, float | None]


def draw_chart(
    lines: Mapping[str, Sequence[Point]],
    *,
    title: str,
    x_label: str = "",
    levels: Mapping[str, float | None] | None = None,
    names: Sequence[str] | None = None,
    from_zero: bool = True,
) -> str:
    """Draw lines over a common axis.

    Parameters
    ----------
    lines : mapping of str to sequence of (x, y)
        In the order of their colours. None for y leaves a gap.
    title : str
        What is read out in place of the chart.
    x_label : str
    levels : mapping of str to float, optional
        Heights that are drawn as dashed lines over the whole width; None draws nothing.
    names : sequence of str, optional
        Of the whole numbers on the x axis, from 0 on, instead of the numbers.
    from_zero : bool
        Begin the y axis at 0, unless a value is below; else end it, too, at a round number.

    Returns
    -------
    str
        An ``svg`` element; without a single point an empty string.
    """
    heights = [y for points in lines.values() for _, y in points if y is not None]
    heights += [level for level in (levels or {}).values() if level is not None]
    places = [x for points in lines.values() for x, _ in points]
    if not heights or not places:
        return ""
    ticks = choose_ticks(min([*heights, 0.0] if from_zero else heights), max(heights))
    if not from_zero and max(heights) > ticks[-1] and len(ticks) > 1:
        ticks.append(round(2 * ticks[-1] - ticks[-2], 10))
    low, high = min(ticks[0], *heights), max(ticks[-1], *heights)
    first, last = (-0.25, len(names) - 0.75) if names else (min(places), max(places))

    def across(x: float) -> float:
        share = (x - first) / (last - first) if last > first else 0.5
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def down(y: float) -> float:
        share = (y - low) / (high - low) if high > low else 0.5
        return HEIGHT - _BOTTOM - share * (HEIGHT - _TOP - _BOTTOM)

    parts = [f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">']
    for tick in ticks:
        at = f"{down(tick):.1f}"
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>')
        parts.append(_write(_LEFT - 6, down(tick) + 3.5, f"{tick:g}", "end"))
    marks = list(enumerate(names)) if names else [(tick, f"{tick:g}") for tick in choose_ticks(first, last)]
    for place, name in marks:
        if first <= place <= last:
            parts.append(_write(across(place), HEIGHT - _BOTTOM + 15, name, "middle"))
    if x_label:
        parts.append(_write(WIDTH - _RIGHT, HEIGHT - 3, x_label, "end"))
    for number, level in enumerate((levels or {}).values()):
        if level is not None:
            at = f"{down(level):.1f}"
            parts.append(
                f'<line class="level l{number}" x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{at}" y2="{at}"/>'
            )
    for number, points in enumerate(lines.values()):
        style = f"s{number % NUM_COLOURS}"
        for part in _split_at_gaps(points):
            drawn = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in part)
            parts.append(f'<polyline class="{style}" points="{drawn}"/>')
            if names or len(part) == 1:
                parts += [
                    f'<circle class="{style}" cx="{across(x):.1f}" cy="{down(y):.1f}" r="3"/>'
                    for x, y in part
                ]
    return "".join([*parts, "</svg>"])


def choose_ticks(low: float, high: float, *, count: int = 5) -> list[float]:
    """Choose round numbers from `low` or a little below to `high` or a little below.

    Examples
    --------
    >>> choose_ticks(0, 3.7)
    [0.0, 1.0, 2.0, 3.0]
    >>> choose_ticks(1, 430)
    [0.0, 100.0, 200.0, 300.0, 400.0]
    """
    span = high - low
    if not span > 0:
        return [float(low)]
    raw = span / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1.0, 2.0, 5.0, 10.0) if raw <= factor * power * 1.0001)
    first = math.floor(low / step + 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _split_at_gaps(points: Sequence[Point]) -> list[list[tuple[float, float]]]:
    parts: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if y is None:
            parts.append([])
        else:
            parts[-1].append((x, y))
    return [part for part in parts if part]


def _write(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
