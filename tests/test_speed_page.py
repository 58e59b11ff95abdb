"""docs/speed.md and docs/planning.md say what the benches measured."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from bench import planning, speed
from bench.speed import write_page


@pytest.mark.parametrize("bench", [speed, planning])
def test_the_page_shows_the_committed_numbers(tmp_path: Path, bench: Any) -> None:
    copy = Path(shutil.copy(bench.PAGE, tmp_path))
    write_page(copy, bench.build_tables())
    assert copy.read_text() == bench.PAGE.read_text(), f"run: python -m {bench.__name__}"


def test_objects_and_jobs_are_those_of_a_run(tiny_run: Path) -> None:
    """The formulas of the planning page, on 13 pictures: two rounds, no saliency maps."""
    stores = [place for place in (tiny_run / "data").rglob("*.zarr") if place.is_dir()]
    files = [file for store in stores for file in store.rglob("*") if file.is_file()]
    assert planning.count_objects(13) == len(files)
    assert planning.count_jobs(13) == len([file for file in files if "/c/0/0/0" in file.as_posix()])


def test_a_page_without_a_mark_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text("<!-- growth -->\nold\n<!-- end -->\n")
    write_page(page, {"growth": "new"})
    assert page.read_text() == "<!-- growth -->\nnew\n<!-- end -->\n"
    with pytest.raises(ValueError, match="has no <!-- ratios -->"):
        write_page(page, {"ratios": "new"})
