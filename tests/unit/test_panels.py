"""Panels: which pictures, which colours, and that every part has its place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dsrg.labels import build_palette
from dsrg.panels import (
    choose_rows,
    colour_label_map,
    draw_panel,
    overlay,
    overlay_cam,
    stack_panels,
    write_png,
)

IDS = np.array([f"picture-{number}" for number in range(12)])


def test_chosen_pictures_cover_the_classes_and_depend_on_names_alone() -> None:
    labels = np.zeros((12, 3), bool)
    labels[np.arange(12), [0] * 8 + [1] * 3 + [2]] = True
    chosen = choose_rows(range(12), IDS, labels, count=4)
    assert len(set(chosen)) == 4
    assert labels[chosen].any(axis=0).all()
    assert chosen == choose_rows(list(reversed(range(12))), IDS, labels, count=4)


def test_fewer_pictures_than_asked_for_are_all_chosen() -> None:
    assert choose_rows([3, 1], IDS, np.zeros((12, 1), bool), count=8) == [1, 3]
    assert choose_rows([], IDS, np.zeros((12, 1), bool), count=8) == []
    assert choose_rows([1], IDS, np.ones((12, 1), bool), count=0) == []


def test_label_maps_take_the_voc_palette() -> None:
    label_map = np.array([[0, 1, 255]], np.uint8)
    np.testing.assert_array_equal(colour_label_map(label_map), [[[0, 0, 0], [128, 0, 0], [224, 224, 192]]])


def test_an_overlay_darkens_background_fades_unlabelled_and_tints_classes() -> None:
    image = np.full((4, 9, 3), 100, np.uint8)
    label_map = np.repeat(np.array([[0, 1, 255]], np.uint8), 3, axis=1).repeat(4, axis=0)
    drawn = overlay(image, label_map)
    np.testing.assert_array_equal(drawn[2, 1], [35, 35, 35])
    np.testing.assert_array_equal(drawn[2, 4], (0.4 * 100 + 0.6 * build_palette()[1]).astype(np.uint8))
    np.testing.assert_array_equal(drawn[2, 7], [205, 205, 205])
    np.testing.assert_array_equal(drawn[2, 3], [255, 255, 255])
    assert (image == 100).all()


def test_heat_rises_with_the_cam_and_no_cam_is_dark() -> None:
    image = np.full((1, 3, 3), 90, np.uint8)
    drawn = overlay_cam(image, np.array([[[0.0, 0.5, 1.0]]], np.float32)).sum(axis=-1, dtype=int)
    assert drawn[0, 0] < drawn[0, 1] < drawn[0, 2]
    np.testing.assert_array_equal(
        overlay_cam(image, np.zeros((0, 1, 3), np.float32)),
        overlay_cam(image, np.zeros((1, 1, 3), np.float32)),
    )


def test_a_panel_holds_its_columns_in_order_and_its_legend() -> None:
    red, blue = np.zeros((64, 32, 3), np.uint8), np.zeros((64, 32, 3), np.uint8)
    red[..., 0], blue[..., 2] = 255, 255
    bare = draw_panel([("red", red), ("blue", blue)])
    panel = draw_panel([("red", red), ("blue", blue)], caption="two", legend=[("cat", 8)])
    reds, blues = ((panel == colour).all(axis=-1).nonzero()[1] for colour in ([255, 0, 0], [0, 0, 255]))
    assert reds.max() < blues.min()
    assert len(panel) > len(bare)
    assert panel.dtype == np.uint8


def test_columns_go_on_in_further_lines() -> None:
    colours = ([255, 0, 0], [0, 255, 0], [0, 0, 255])
    columns = [(str(colour), np.full((64, 64, 3), colour, np.uint8)) for colour in colours]
    panel = draw_panel(columns, per_line=2)
    reds, greens, blues = ((panel == colour).all(axis=-1).nonzero() for colour in colours)
    assert reds[0].min() == greens[0].min()
    assert reds[1].max() < greens[1].min()
    assert blues[0].min() > reds[0].max()
    assert blues[1].min() == reds[1].min()
    assert panel.shape[1] < draw_panel(columns).shape[1]
    assert np.array_equal(draw_panel(columns, per_line=9), draw_panel(columns))


def test_many_classes_wrap_the_legend_into_lines() -> None:
    picture = np.zeros((32, 32, 3), np.uint8)
    few = draw_panel([("p", picture)], legend=[("cat", 1)])
    many = draw_panel([("p", picture)], legend=[(f"class number {k}", k) for k in range(1, 20)])
    assert many.shape[1] == few.shape[1]
    assert many.shape[0] > few.shape[0]


def test_a_panel_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="`columns` must hold at least one picture"):
        draw_panel([])


def test_panels_stack_whatever_their_widths() -> None:
    narrow, wide = np.zeros((2, 3, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)
    sheet = stack_panels([narrow, wide])
    assert sheet.shape == (6, 5, 3)
    assert (sheet[:2, 3:] == 255).all()


def test_equal_pictures_give_equal_png_bytes(tmp_path: Path) -> None:
    panel = draw_panel([("a", np.full((20, 30, 3), 90, np.uint8))], caption="übung")
    for name in ("one.png", "two.png"):
        write_png(tmp_path / name, panel)
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "one.png")), panel)
