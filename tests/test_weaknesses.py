"""No pinned package has a weakness that this repository knows of; `make audit` asks PyPI for all others."""

from __future__ import annotations

import re
from pathlib import Path

from package_needs import normalise
from packaging.version import Version

PIN = re.compile(r"([\w.-]+)==([\w.!+-]+)")


def read_pins(place: Path) -> dict[str, Version]:
    """Read ``NAME==VERSION`` lines; remarks and empty lines are left out."""
    lines = (line.partition("#")[0].strip() for line in place.read_text().splitlines())
    found = [PIN.fullmatch(line) for line in lines if line]
    assert all(found), f"{place.name}: a line is no pin"
    return {normalise(match[1]): Version(match[2]) for match in found if match}


def test_every_pin_is_beyond_the_known_weaknesses(project_root: Path):
    pins = read_pins(project_root / "constraints.txt")
    without = read_pins(project_root / "tests" / "known_weaknesses.txt")
    checked = set(pins) & set(without)
    assert len(checked) > 15
    assert {name: str(pins[name]) for name in checked if pins[name] < without[name]} == {}
