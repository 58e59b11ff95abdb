"""docs/speed.md says what the benches measured."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from bench.speed import PAGE, build_tables, write_page


def test_the_page_shows_the_committed_numbers(tmp_path: Path) -> None:
    copy = Path(shutil.copy(PAGE, tmp_path))
    write_page(copy, build_tables())
    assert copy.read_text() == PAGE.read_text(), "run: python -m bench.speed"


def test_a_page_without_a_mark_is_refused(tmp_path: Path) -> None:
    page = tmp_path / "speed.md"
    page.write_text("<!-- growth -->\nold\n<!-- end -->\n")
    write_page(page, {"growth": "new"})
    assert page.read_text() == "<!-- growth -->\nnew\n<!-- end -->\n"
    with pytest.raises(ValueError, match="has no <!-- ratios -->"):
        write_page(page, {"ratios": "new"})
