"""Pictures beside exported labels: copied or linked as they are, or written anew where that would not fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from dsrg.places import is_remote
from dsrg.sources import Reader, Record
from dsrg.sources.base import fetch_files
from tasks.errors import UserError
from tasks.workspace import replace_whole

Mode = Literal["copy", "link", "none"]
Fate = Literal["as it is", "turned upright", "converted", "drawn"]
_ORIENTATION, _UPRIGHT, _TURNED = 0x0112, 1, (5, 6, 7, 8)
_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".tif": "TIFF", ".tiff": "TIFF", ".bmp": "BMP"}
# Phones write pictures of several frames, whose first every JPEG reader takes.
_SAME = {"MPO": "JPEG"}
_JPEG = {"quality": 95, "subsampling": 0}


@dataclass(frozen=True)
class Kind:
    """What a file of a picture is, by its first bytes.

    Attributes
    ----------
    format : str
        ``JPEG``, ``PNG``, ...
    mode : str
        PIL's: ``RGB``, ``L``, ``P``, ...
    upright : bool
        Whether its pixels lie as they are shown, without a turn that EXIF asks for.
    size : (height, width)
        As shown.
    """

    format: str
    mode: str
    upright: bool
    size: tuple[int, int]


def look_at(path: Path) -> Kind:
    """Look at a picture's header; nothing is decoded.

    Raises
    ------
    UserError
        Gone, or no picture any more.
    """
    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(_ORIENTATION, _UPRIGHT)
            height, width = image.height, image.width
            if orientation in _TURNED:
                height, width = width, height
            name = str(image.format)
            return Kind(_SAME.get(name, name), image.mode, orientation in (0, _UPRIGHT), (height, width))
    except FileNotFoundError:
        raise UserError(
            f"`{path}` not found, but it was there at ingest: bring it back, or `dsrg run`"
        ) from None
    except UnidentifiedImageError:
        raise UserError(f"`{path}` is no picture any more: bring it back, or `dsrg run`") from None


def place_picture(
    record: Record,
    reader: Reader,
    target: Path,
    *,
    mode: Mode,
    original_size: Sequence[int],
    fits: Callable[[Kind], bool],
) -> Fate:
    """Put a picture at `target`, unless an earlier attempt did.

    Parameters
    ----------
    record : Record
    reader : Reader
        Of the source that the record is from.
    target : Path
        Its suffix decides the format of pictures that are written anew: JPEG of quality 95, or one
        without loss. Folders are made.
    mode : {'copy', 'link', 'none'}
        How to put files that may stay as they are; those under a URL are copied.
    original_size : (height, width)
        At ingest.
    fits : callable
        Whether a file of a kind may stand there as it is. One that EXIF turns never may: not every
        reader turns it, and the labels are those of the upright picture.

    Returns
    -------
    {'as it is', 'turned upright', 'converted', 'drawn'}
        What was done to it, or would have been: ``converted`` to another format, or ``drawn`` by a source
        that has no files.

    Raises
    ------
    UserError
        The picture is gone or has another size than at ingest.
    """
    if is_remote(record.picture):
        with fetch_files([record], "picture") as (near,):
            settings: dict[str, Any] = {"original_size": original_size, "fits": fits}
            return place_picture(near, reader, target, mode="none" if mode == "none" else "copy", **settings)
    fate: Fate = "drawn"
    if isinstance(record.picture, Path):
        kind = look_at(record.picture)
        if kind.size != tuple(original_size):
            raise UserError(
                f"`{record.picture}` is {kind.size[0]} x {kind.size[1]} pixels, but was {original_size[0]} x "
                f"{original_size[1]} (height x width) at ingest: bring the old one back, or `dsrg run`"
            )
        fate = "turned upright" if not kind.upright else "as it is" if fits(kind) else "converted"
    if mode == "none" or target.is_file():
        return fate
    with replace_whole(target) as partial:
        partial.unlink(missing_ok=True)  # of a run that was killed: a link cannot be written over
        if fate != "as it is":
            _write(reader.read_image(record), partial, _FORMATS.get(target.suffix.lower(), "PNG"))
        elif mode == "link":
            partial.symlink_to(Path(record.picture).resolve())  # type: ignore[arg-type]
        else:
            shutil.copyfile(record.picture, partial)  # type: ignore[arg-type]
    return fate


def _write(image: NDArray[np.uint8], path: Path, kind: str) -> None:
    Image.fromarray(image).save(path, format=kind, **(_JPEG if kind == "JPEG" else {}))
