"""Plots are written, repeat byte for byte, and bear gaps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from dsrg.plots import draw_class_plot, draw_confusion_plot, draw_loss_plot, draw_round_plot


def draw_rounds(path: Path) -> None:
    draw_round_plot(path, ["1", "2"], {"val": [0.5, None], "train": [None, None]}, {"CAM": 0.4, "none": None})


def draw_classes(path: Path) -> None:
    draw_class_plot(path, {"one": {"background": 0.9, "cat": None}, "two": {"background": 0.8, "cat": 0.1}})


def draw_losses(path: Path) -> None:
    draw_loss_plot(path, {"1": [{"step": 1, "loss": 2.0}, {"step": 2, "loss": -0.1}], "2": []})


def draw_confusion(path: Path) -> None:
    draw_confusion_plot(path, ["background", "cat", "never seen"], [[9, 1, 0], [2, 3, 0], [0, 0, 0]])


@pytest.mark.parametrize("draw", [draw_rounds, draw_classes, draw_losses, draw_confusion])
def test_a_plot_is_written_and_repeats(draw: Callable[[Path], None], tmp_path: Path) -> None:
    draw(tmp_path / "one.png")
    draw(tmp_path / "two.png")
    assert (tmp_path / "one.png").read_bytes() == (tmp_path / "two.png").read_bytes()
    with Image.open(tmp_path / "one.png") as image:
        assert min(image.size) > 200
