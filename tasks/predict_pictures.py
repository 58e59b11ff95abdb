"""The pictures that ``predict`` is given, and the names of what is made of them."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dsrg.image import PICTURE_SUFFIXES
from dsrg.sources.files import compose, describe_strange_name, index_files, strip_suffix
from tasks.errors import UserError


@dataclass(frozen=True)
class Picture:
    """A picture to draw a label map of.

    Attributes
    ----------
    path : Path
    name : str
        Its path below the folder that all pictures share, with ``/``.
    stem : str
        Path of its mask below ``masks/``, without suffix; no two pictures share one.
    """

    path: Path
    name: str
    stem: str


def list_pictures(given: Sequence[Path], *, leave_out: Path) -> list[Picture]:
    """List the pictures that files and folders name, each once, sorted.

    Names are paths below the folder that holds everything given: of one folder, paths below it; of several,
    paths below the nearest folder that holds them all, so that equal names in two folders stay apart.

    Parameters
    ----------
    given : sequence of Path
        Files and folders.
    leave_out : Path
        Folder whose pictures are none to draw: the one that results are written to.

    Raises
    ------
    UserError
        A path is missing or no picture by its suffix, or there is no picture at all.
    """
    problems = []
    found: dict[Path, None] = {}
    tops: list[Path] = []
    results = Path(os.path.normpath(leave_out.expanduser().absolute()))
    for path in given:
        place = Path(os.path.normpath(path.expanduser().absolute()))
        try:
            if place.is_dir():
                tops.append(place)
                inside = (place / name for name in index_files(place).names)
                found.update(dict.fromkeys(file for file in inside if not file.is_relative_to(results)))
            elif not place.exists():
                problems.append(f"`{path}` not found: name pictures, or folders of pictures")
            elif not place.name.lower().endswith(PICTURE_SUFFIXES):
                problems.append(f"`{path}` must be a picture ({' '.join(PICTURE_SUFFIXES)}) or a folder")
            else:
                place.name.encode()
                tops.append(place.parent)
                found[place] = None
        except UnicodeEncodeError as error:
            problems.append(describe_strange_name(error))
    if problems:
        raise UserError("\n".join(problems))
    if not found:
        raise UserError(f"`{' '.join(map(str, given))}` must be a folder with pictures, or pictures")
    home = Path(os.path.commonpath(tops))
    names = {path: path.relative_to(home).as_posix() for path in found}
    stems = Counter(compose(strip_suffix(name)).lower() for name in names.values())
    pictures = [
        Picture(path, name, name if stems[compose(strip_suffix(name)).lower()] > 1 else strip_suffix(name))
        for path, name in names.items()
    ]
    return sorted(pictures, key=lambda picture: picture.name)
