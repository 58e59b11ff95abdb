"""Charts as SVG: well-formed, within their frame, with gaps, and readable aloud."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest

from dsrg.charts import HEIGHT, WIDTH, choose_ticks, draw_chart


def list_points(svg: str) -> list[list[tuple[float, float]]]:
    return [
        [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.split())]
        for line in re.findall(r'points="([^"]+)"', svg)
    ]


def test_lines_stay_in_the_frame_and_keep_their_order() -> None:
    svg = draw_chart({"a": [(1, 0.0), (2, 5.0), (3, 2.0)], "b": [(1, 7.3), (3, 1.0)]}, title="x")
    lines = list_points(svg)
    assert [len(line) for line in lines] == [3, 2]
    assert all(0 <= x <= WIDTH and 0 <= y <= HEIGHT for line in lines for x, y in line)
    heights = [y for _, y in lines[0]]
    assert heights[1] < heights[2] < heights[0]  # down is larger


def test_a_gap_splits_a_line_and_a_lonely_point_is_drawn() -> None:
    svg = draw_chart({"a": [(0, 1.0), (1, 2.0), (2, None), (3, 3.0)]}, title="x")
    assert [len(line) for line in list_points(svg)] == [2, 1]
    assert svg.count("<circle") == 1


def test_texts_are_escaped_and_the_chart_has_a_name() -> None:
    svg = draw_chart({"a": [(0, 1.0)]}, title='a "b" <c>', names=["<1>"], x_label="s & t")
    root = ET.fromstring(svg)
    assert root.attrib["aria-label"] == 'a "b" <c>'
    assert {"<1>", "s & t"} <= {element.text for element in root.iter("text")}


def test_levels_are_dashed_lines_and_none_draws_nothing() -> None:
    svg = draw_chart(
        {"a": [(0, 50.0), (1, 60.0)]},
        title="x",
        levels={"b": 81.0, "c": None},
        names=["1", "2"],
        from_zero=False,
    )
    assert svg.count('class="level') == 1
    height = float(re.search(r'class="level l0"[^>]*y1="([\d.]+)"', svg)[1])  # type: ignore[index]
    assert 0 < height < min(y for line in list_points(svg) for _, y in line)


def test_nothing_to_draw_is_nothing() -> None:
    assert draw_chart({}, title="x") == ""
    assert draw_chart({"a": []}, title="x") == ""
    assert draw_chart({"a": [(0, None)]}, title="x") == ""


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.2, 0.93), (-3, 40), (99, 99), (1, 20_000)])
def test_ticks_are_few_round_and_near(low: float, high: float) -> None:
    ticks = choose_ticks(low, high)
    assert 1 <= len(ticks) <= 7
    assert ticks[0] <= low
    assert ticks[-1] <= high
    assert all(len(f"{tick:g}") <= 6 for tick in ticks)
