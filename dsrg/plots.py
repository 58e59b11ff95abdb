"""Plots of a run, drawn without a display and without a network; equal numbers give equal files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

_COLOURS = ("#3b6fb6", "#d1702e", "#4a9a5b", "#8d5aa8", "#b33f4e", "#6b6b6b")
Value = float | None


def draw_round_plot(
    path: Path, rounds: Sequence[str], lines: Mapping[str, Sequence[Value]], levels: Mapping[str, Value]
) -> None:
    """Draw mIoU by round as lines, and what does not change with rounds as dashed levels.

    Parameters
    ----------
    path : Path
        PNG to write.
    rounds : sequence of R str
    lines : mapping of str to sequence of R float
        In [0, 1]; None leaves a gap.
    levels : mapping of str to float
    """
    figure, axes = _open_figure(6.4, 4.2)
    for number, (name, values) in enumerate(lines.items()):
        points = [float("nan") if value is None else 100 * value for value in values]
        axes.plot(range(len(rounds)), points, marker="o", color=_COLOURS[number % len(_COLOURS)], label=name)
    for number, (name, level) in enumerate(levels.items()):
        if level is not None:
            style = ("--", ":", "-.")[number % 3]
            axes.axhline(100 * level, linestyle=style, linewidth=1.2, color="#555555", label=name)
    axes.set_xticks(range(len(rounds)), [f"round {key}" for key in rounds])
    axes.set_xlim(-0.3, len(rounds) - 0.7)
    axes.set_ylabel("mIoU (%)")
    axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    _write_figure(figure, path)


def draw_class_plot(path: Path, bars: Mapping[str, Mapping[str, Value]]) -> None:
    """Draw IoU by class as groups of bars, the first group's classes in their order.

    Parameters
    ----------
    path : Path
        PNG to write.
    bars : mapping of str to mapping of str to float
        By series, then by class; in [0, 1], None draws nothing.
    """
    classes = list(next(iter(bars.values())))
    figure, axes = _open_figure(7.0, max(2.5, 0.17 * len(classes) * (len(bars) + 1)))
    height = 0.8 / len(bars)
    for number, (name, values) in enumerate(bars.items()):
        places = [row + (number - (len(bars) - 1) / 2) * height for row in range(len(classes))]
        widths = [100 * (values.get(name_of) or 0.0) for name_of in classes]
        axes.barh(places, widths, height=height, color=_COLOURS[number % len(_COLOURS)], label=name)
    axes.set_yticks(range(len(classes)), classes)
    axes.margins(y=0.02)
    axes.invert_yaxis()
    axes.set_xlim(0, 100)
    axes.set_xlabel("IoU (%)")
    axes.legend(fontsize=8, frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=len(bars))
    _write_figure(figure, path)


def draw_confusion_plot(path: Path, classes: Sequence[str], confusion: Sequence[Sequence[int]]) -> None:
    """Draw where the pixels of each true class go, in percent of the class.

    Parameters
    ----------
    path : Path
        PNG to write.
    classes : sequence of C str
    confusion : (C, C) nested sequence of int
        Rows truth, columns prediction. The row of a class without a true pixel stays white.
    """
    count = len(classes)
    side = max(4.0, 1.8 + 0.42 * count)
    figure = Figure(figsize=(side + 0.6, side), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    shares = [[100 * value / sum(row) if sum(row) else float("nan") for value in row] for row in confusion]
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, values in enumerate(shares):
        for column, share in enumerate(values):
            if share >= 0.5:
                colour = "white" if share > 60 else "#222222"
                axes.text(column, row, f"{share:.0f}", ha="center", va="center", fontsize=7, color=colour)
    axes.set_xticks(range(count), classes, rotation=60, ha="right", rotation_mode="anchor", fontsize=8)
    axes.set_yticks(range(count), classes, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    figure.colorbar(shown, shrink=0.7, label="% of the true class")
    _write_figure(figure, path)


def draw_loss_plot(path: Path, curves: Mapping[str, Sequence[Mapping[str, float]]]) -> None:
    """Draw the loss by step, one line per round.

    Parameters
    ----------
    path : Path
        PNG to write.
    curves : mapping of str to sequence of mapping
        By round; points with ``step`` and ``loss``.
    """
    figure, axes = _open_figure(6.4, 3.6)
    for number, (key, points) in enumerate(curves.items()):
        if points:
            steps, losses = [point["step"] for point in points], [point["loss"] for point in points]
            axes.plot(steps, losses, color=_COLOURS[number % len(_COLOURS)], label=f"round {key}")
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    lowest = min((point["loss"] for points in curves.values() for point in points), default=0.0)
    axes.set_ylim(bottom=min(0.0, lowest))
    axes.legend(fontsize=8, frameon=False)
    _write_figure(figure, path)


def _open_figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _write_figure(figure: Figure, path: Path) -> None:
    figure.savefig(path, metadata={"Software": None})
