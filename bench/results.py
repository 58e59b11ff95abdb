"""Where a bench's numbers go: a JSON file beside it, which also says what they were measured on."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tasks.doctor_places import name_processor


def write_result(bench: str, **numbers: Any) -> Path:
    """Write a bench's numbers to ``bench/NAME.json``, over those of the last time.

    Parameters
    ----------
    bench : str
        ``__file__`` of the bench.
    **numbers
        What was measured; goes into JSON as it is.

    Returns
    -------
    Path
        The file.
    """
    place = Path(bench).with_suffix(".json")
    about = {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "processor": name_processor(),
        "cores": os.cpu_count(),
    }
    place.write_text(json.dumps({**about, **numbers}, indent=2) + "\n", encoding="utf-8")
    return place


def read_result(bench: str) -> dict[str, Any]:
    """Read what a bench, named by its ``__file__``, measured before; empty if it never did."""
    place = Path(bench).with_suffix(".json")
    found: dict[str, Any] = json.loads(place.read_text(encoding="utf-8")) if place.exists() else {}
    return found


def draw_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """Draw a table in Markdown; all columns but the first `left` stand to the right."""
    ruler = "|" + "---|" * left + "---:|" * (len(head) - left)
    return "\n".join(
        ["| " + " | ".join(head) + " |", ruler, *("| " + " | ".join(row) + " |" for row in rows)]
    )
