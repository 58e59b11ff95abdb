"""What a person sees of a stage: progress, messages, tables.

On a terminal a live bar; otherwise a plain line at every tenth, so that logs stay short. With
``DSRG_PROGRESS=plain`` in the environment, lines ``PROGRESS description done total`` are added for
the flow, which turns them into a progress artifact.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Sequence, Sized
from typing import Any, Protocol, TypeVar, cast

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table

PROGRESS_PREFIX = "PROGRESS"
_MACHINE_SECONDS = 0.5


def _make_consoles() -> tuple[Console, Console]:
    settings: dict[str, Any] = {"soft_wrap": True, "highlight": False}
    return Console(**settings), Console(stderr=True, **settings)


_out, _err = _make_consoles()

T = TypeVar("T")


class Report(Protocol):
    """Callback of long work: how many of how many are done, and numbers worth showing."""

    def __call__(self, done: int, total: int, **values: float | str) -> None:
        """Show that `done` of `total` are done."""


def renew() -> None:
    """Look anew at where this process writes to and what that can show: it was something else before."""
    global _out, _err
    _out, _err = _make_consoles()


def say(message: str) -> None:
    """Print one line."""
    _out.print(escape(message))


def warn(message: str) -> None:
    """Print one line on stderr, as a warning."""
    _err.print(f"[yellow]warning:[/] {escape(message)}")


def fail(message: str) -> None:
    """Print an error on stderr, one line per problem; indented lines belong to the one above."""
    for line in message.splitlines():
        _err.print(escape(line) if line.startswith(" ") else f"[red]error:[/] {escape(line)}")


def print_finding(state: str, about: str, text: str, remedy: str) -> None:
    """Print what a check found: ok, warning or problem, and below it the remedy."""
    colour = {"ok": "green", "warning": "yellow"}.get(state, "red")
    _out.print(f"[{colour}]{state:8}[/] {escape(about):12} {escape(text)}")
    if remedy:
        _out.print(f"{'':21} -> {escape(remedy)}")


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print a table; columns that hold only numbers or dashes are right-aligned."""
    body = [list(row) for row in rows]
    table = Table(title=title or None, title_justify="left")
    for number, column in enumerate(columns):
        numeric = all(
            row[number].strip("+-–−.% ").replace(".", "").isdigit() or len(row[number]) < 2 for row in body
        )
        table.add_column(column, justify="right" if numeric else "left", no_wrap=number == 0)
    for row in body:
        table.add_row(*(escape(cell) for cell in row))
    _out.print(table)


def print_json(value: Any) -> None:
    """Print `value` as JSON, for scripts; in colour on a terminal."""
    _out.print_json(data=value, ensure_ascii=False)


@contextlib.contextmanager
def keep_stdout_free(wanted: bool = True) -> Iterator[None]:
    """Show everything on stderr as long as this lasts: stdout is for the JSON that comes after."""
    global _out
    before = _out
    _out = _err if wanted else _out
    try:
        yield
    finally:
        _out = before


@contextlib.contextmanager
def show_progress(description: str) -> Iterator[Report]:
    """Show the progress of long work through the callback that is handed out.

    Examples
    --------
    ::

        with show_progress("train@1") as report:
            report(40, 400, loss=0.53, lr=0.004)
    """
    meter = _LiveMeter(description) if _out.is_terminal else _LineMeter(description)
    machine = _MachineMeter(description) if os.environ.get("DSRG_PROGRESS") == "plain" else None

    def report(done: int, total: int, **values: float | str) -> None:
        meter.update(done, total, values)
        if machine:
            machine.update(done, total)

    try:
        yield report
    finally:
        meter.close()


def track(items: Iterable[T] | int, description: str, *, total: int | None = None) -> Iterator[T]:
    """Iterate over `items`, or over ``range(items)``, showing progress.

    Parameters
    ----------
    items : iterable or int
        What to go through.
    description : str
        What is being done.
    total : int, optional
        How many there are, where `items` has no length.
    """
    source = cast(Iterable[T], range(items)) if isinstance(items, int) else items
    count = total if total is not None else len(cast(Sized, source))
    with show_progress(description) as report:
        report(0, count)
        for done, item in enumerate(source, start=1):
            yield item
            report(done, count)


def format_values(values: dict[str, float | str]) -> str:
    """Format named numbers for a line of progress.

    Examples
    --------
    >>> format_values({"loss": 0.53211, "images/s": 45.0})
    'loss 0.5321 · images/s 45'
    """
    parts = (
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}"
        for name, value in values.items()
    )
    return " · ".join(parts)


class _LiveMeter:
    def __init__(self, description: str) -> None:
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=_out,
        )
        self._bar.start()
        self._task = self._bar.add_task(escape(description), total=None, shown="")

    def update(self, done: int, total: int, values: dict[str, float | str]) -> None:
        self._bar.update(self._task, completed=done, total=total, shown=escape(format_values(values)))

    def close(self) -> None:
        self._bar.stop()


class _LineMeter:
    def __init__(self, description: str) -> None:
        self._description = description
        self._start = time.monotonic()
        self._tenth = 0

    def update(self, done: int, total: int, values: dict[str, float | str]) -> None:
        tenth = 10 * done // max(total, 1)
        if tenth <= self._tenth:
            return
        self._tenth = tenth
        spent = time.monotonic() - self._start
        left = spent * (total - done) / max(done, 1)
        share = f"{done}/{total} ({100 * done // max(total, 1)}%)"
        shown = f" · {format_values(values)}" if values else ""
        line = f"{self._description}: {share}{shown} · {spent:.0f} s, {left:.0f} s left"
        print(line, file=_out.file, flush=True)

    def close(self) -> None:
        _out.file.flush()


class _MachineMeter:
    def __init__(self, description: str) -> None:
        self._description = description
        self._last: float | None = None

    def update(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._last is not None and done < total and now - self._last < _MACHINE_SECONDS:
            return
        self._last = now
        print(f"{PROGRESS_PREFIX} {self._description} {done} {total}", file=_out.file, flush=True)


def parse_progress(line: str) -> tuple[str, int, int] | None:
    """Parse a line meant for machines into description, done and total; None if it is none.

    Examples
    --------
    >>> parse_progress("PROGRESS cams 3 10")
    ('cams', 3, 10)
    """
    words: list[Any] = line.split()
    if len(words) < 4 or words[0] != PROGRESS_PREFIX or not (words[-1].isdigit() and words[-2].isdigit()):
        return None
    return " ".join(words[1:-2]), int(words[-2]), int(words[-1])
