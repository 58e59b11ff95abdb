"""Files of an export: each appears whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dsrg.legends import paint_palette
from tasks.workspace import replace_whole


def encode_png(label_map: NDArray[np.uint8], *, palette: bool) -> bytes:
    """Encode a label map as PNG: class ids under VOC's palette, or as grey levels."""
    image = paint_palette(label_map) if palette else Image.fromarray(label_map)
    stream = BytesIO()
    image.save(stream, format="PNG")
    return stream.getvalue()


def write_once(place: Path, make: Callable[[], bytes]) -> None:
    """Write the bytes that `make` gives, unless the file is there: it appears whole or not at all."""
    if not place.is_file():
        _write_bytes(place, make())


def write_lines(place: Path, lines: Iterable[str]) -> None:
    """Write a text file at once."""
    _write_bytes(place, "".join(f"{line}\n" for line in lines).encode())


def write_json(place: Path, values: Any) -> None:
    """Write a JSON file at once, in a few lines: annotations are long."""
    _write_bytes(place, (json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n").encode())


def _write_bytes(place: Path, content: bytes) -> None:
    with replace_whole(place) as partial:
        partial.write_bytes(content)
