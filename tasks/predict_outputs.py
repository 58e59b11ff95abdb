"""What ``predict`` writes: masks, overlays, a legend, a sheet, and the area of every class."""

from __future__ import annotations

import csv
import hashlib
import json
import uuid
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from dsrg.image import DecodeError, fit_size, read_image, scale_image, scale_label_map
from dsrg.labels import build_palette
from dsrg.legends import caption_picture, draw_legend, draw_sheet, list_found, paint_palette
from tasks.errors import UserError
from tasks.predict_models import hash_file
from tasks.predict_pictures import Picture
from tasks.workspace import replace_whole

SETTINGS = "settings.json"
OVERLAY_SIDE = 1600
SHEET_PICTURES = 24
_TILE, _ACROSS = 240, 6
_MADE_BY = "dsrg"  # key of the text in each mask


@dataclass(frozen=True)
class Seen:
    """What tables and sheet need of a picture whose mask is there.

    Attributes
    ----------
    size : (H, W)
        Pixels.
    counts : (C,) int64
        Pixels of each class.
    tile : (h, w, 3) uint8 or None
        Its overlay, small; None where it was not asked for.
    """

    size: tuple[int, int]
    counts: NDArray[np.int64]
    tile: NDArray[np.uint8] | None


@dataclass
class Outputs:
    """The folder that results go to.

    Attributes
    ----------
    folder : Path
    classes : tuple of C str
        By class id.
    settings : dict
        All that decides a mask, but the picture.
    drafts : Path or None
        Folder for files that are being written, where others may write at the same time; None is beside
        each file.
    counts : dict
        By name of a picture, pixels of each class, (C,) int64; filled by `note` and `take`.
    """

    folder: Path
    classes: tuple[str, ...]
    settings: dict[str, Any]
    drafts: Path | None = None
    counts: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    _sizes: dict[str, tuple[int, int]] = field(default_factory=dict)
    _tiles: dict[str, NDArray[np.uint8]] = field(default_factory=dict)

    def locate_mask(self, picture: Picture) -> Path:
        return self.folder / "masks" / f"{picture.stem}.png"

    def locate_overlay(self, picture: Picture) -> Path:
        return self.folder / "overlays" / f"{picture.stem}.jpg"

    def list_done(self, pictures: Sequence[Picture], *, overwrite: bool) -> set[str]:
        """List the pictures whose masks are there already.

        Parameters
        ----------
        pictures : sequence of Picture
        overwrite : bool
            Masks that other settings made, or of other pictures, are to be drawn again.

        Raises
        ------
        UserError
            There are such masks, and they are not to be overwritten.
        """
        there = [picture for picture in pictures if self.locate_mask(picture).exists()]
        done = {picture.name for picture in there if self.is_done(picture)}
        others = [picture for picture in there if picture.name not in done]
        if others and not overwrite:
            changed = self._list_changes() or ["of another picture of that name"]
            raise UserError(
                f"`{self.locate_mask(others[0])}`{f' and {len(others) - 1} more' * (len(others) > 1)} "
                f"made otherwise ({', '.join(changed)}): name another --out, or --overwrite to draw again"
            )
        return done

    def is_done(self, picture: Picture) -> bool:
        """Tell whether a picture's mask is there, made of it with these settings."""
        made_by = self._read_origin(picture)
        return bool(made_by) and made_by == self._tell_origin(picture)

    @property
    def tiles_wanted(self) -> int:
        """How many more pictures the sheet has room for."""
        return SHEET_PICTURES - len(self._tiles)

    def begin(self) -> None:
        """Write the settings, and which colour is which class."""
        self.folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.settings, indent=2, ensure_ascii=False) + "\n"
        _write(self.folder / SETTINGS, text.encode())
        colours = list_colours(len(self.classes))
        lines = [f"{k}\t{name}\t{colours[k]}\n" for k, name in enumerate(self.classes)]
        _write(self.folder / "classes.txt", "".join(lines).encode())
        entries = [(f"{k} {name}", k) for k, name in enumerate(self.classes)]
        _save_picture(self.folder / "legend.png", draw_legend(entries, width=640), "PNG")

    def write(
        self, picture: Picture, image: NDArray[np.uint8], label_map: NDArray[np.uint8], *, with_tile: bool
    ) -> Seen:
        """Write a picture's overlay, then its mask: where the mask is, all is there."""
        shown = _lay_over(image, label_map)
        place = self.locate_overlay(picture)
        captioned = caption_picture(shown, list_found(label_map, self.classes))
        _save_picture(place, captioned, "JPEG", drafts=self.drafts)
        made_by = self._tell_origin(picture)
        write_palette_png(self.locate_mask(picture), label_map, made_by=made_by, drafts=self.drafts)
        return self._look_at(label_map, _shrink(shown) if with_tile else None)

    def look_again(self, picture: Picture, *, with_tile: bool) -> Seen:
        """Look at a picture whose mask is there already as `write` did.

        Raises
        ------
        DecodeError
            The picture cannot be read any more.
        """
        label_map = self._read_mask(picture)
        tile = _shrink(_lay_over(read_image(picture.path), label_map)) if with_tile else None
        return self._look_at(label_map, tile)

    def take(self, picture: Picture) -> None:
        """Take up a picture whose mask is there already."""
        self.note(picture, self._look_at(self._read_mask(picture), None))

    def note(self, picture: Picture, seen: Seen) -> None:
        """Note what tables and sheet need; a tile that is missing is made of the overlay's file."""
        self.counts[picture.name] = seen.counts
        self._sizes[picture.name] = seen.size
        if self.tiles_wanted > 0:
            tile = self._read_tile(picture, seen.size) if seen.tile is None else seen.tile
            if tile is not None:
                self._tiles[picture.name] = tile

    def finish(self, pictures: Sequence[Picture]) -> None:
        """Write the areas and the sheet."""
        known = [picture for picture in pictures if picture.name in self.counts]
        self._write_csv(known)
        rows = [self._describe(picture) for picture in known]
        _write(self.folder / "areas.json", (json.dumps(rows, indent=1, ensure_ascii=False) + "\n").encode())
        if self._tiles:
            total = np.sum([self.counts[name] for name in self._tiles], axis=0)
            entries = [(self.classes[k], int(k)) for k in np.flatnonzero(total)]
            tiles = [(name, self._tiles[name]) for name in sorted(self._tiles)]
            sheet = draw_sheet(tiles, entries, across=_ACROSS, side=_TILE)
            _save_picture(self.folder / "sheet.png", sheet, "PNG")

    def _look_at(self, label_map: NDArray[np.uint8], tile: NDArray[np.uint8] | None) -> Seen:
        counts = np.bincount(label_map.ravel(), minlength=len(self.classes))
        size = (label_map.shape[0], label_map.shape[1])
        return Seen(size, counts[: len(self.classes)].astype(np.int64), tile)

    def _read_mask(self, picture: Picture) -> NDArray[np.uint8]:
        with Image.open(self.locate_mask(picture)) as mask:
            return np.array(mask)

    def _read_tile(self, picture: Picture, size: tuple[int, int]) -> NDArray[np.uint8] | None:
        if not self.locate_overlay(picture).exists():
            return None
        try:
            captioned = read_image(self.locate_overlay(picture))
        except DecodeError:
            return None
        height, width = fit_size(size, OVERLAY_SIDE)
        return _shrink(np.ascontiguousarray(captioned[:height, :width]))

    def _write_csv(self, pictures: Sequence[Picture]) -> None:
        place = self.folder / "areas.csv"
        with replace_whole(place) as partial, partial.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(
                (
                    *("image", "height", "width"),
                    *(f"{name} share" for name in self.classes),
                    *(f"{name} pixels" for name in self.classes),
                )
            )
            for picture in pictures:
                counts = self.counts[picture.name]
                shares = (f"{share:.6f}" for share in counts / counts.sum())
                writer.writerow((picture.name, *self._sizes[picture.name], *shares, *counts.tolist()))

    def _describe(self, picture: Picture) -> dict[str, Any]:
        counts, (height, width) = self.counts[picture.name], self._sizes[picture.name]
        colours = list_colours(len(self.classes))
        return {
            "image": picture.name,
            "mask": self.locate_mask(picture).relative_to(self.folder).as_posix(),
            "overlay": self.locate_overlay(picture).relative_to(self.folder).as_posix(),
            "height": height,
            "width": width,
            "classes": [
                {
                    "id": int(k),
                    "name": self.classes[k],
                    "color": colours[k],
                    "pixels": int(counts[k]),
                    "share": round(float(counts[k] / counts.sum()), 6),
                }
                for k in np.flatnonzero(counts)
            ],
        }

    def _tell_origin(self, picture: Picture) -> str:
        """Tell what a mask is made by, and of which picture."""
        deciding = {key: value for key, value in self.settings.items() if key != "source"}
        made_by = hashlib.sha256(json.dumps(deciding, sort_keys=True).encode()).hexdigest()
        return f"{made_by[:16]} {hash_file(picture.path)}"

    def _read_origin(self, picture: Picture) -> str:
        try:
            with Image.open(self.locate_mask(picture)) as mask:
                return str(mask.info.get(_MADE_BY, ""))
        except OSError:
            return ""

    def _list_changes(self) -> list[str]:
        """List the settings that changed since the folder was last written to."""
        try:
            before = json.loads((self.folder / SETTINGS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return ["settings unknown"]
        return [
            _tell_change(key, before.get(key), value)
            for key, value in self.settings.items()
            if before.get(key) != value and key != "source"
        ]


def list_colours(count: int) -> list[str]:
    """List the colours of the first class ids as ``#rrggbb``.

    Examples
    --------
    >>> list_colours(2)
    ['#000000', '#800000']
    """
    return ["#" + bytes(colour).hex() for colour in build_palette()[:count].tolist()]


def write_palette_png(
    path: Path, label_map: NDArray[np.uint8], *, made_by: str, drafts: Path | None = None
) -> None:
    """Write a label map as a palette PNG, at once; `made_by` is a text in it."""
    text = PngInfo()
    text.add_text(_MADE_BY, made_by)
    with _replace(path, drafts) as partial:
        paint_palette(label_map).save(partial, "PNG", pnginfo=text)


def _lay_over(image: NDArray[np.uint8], label_map: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Lay a label map over its picture, at the size of overlays."""
    from dsrg.panels import overlay

    small = scale_image(image, fit_size(image.shape, OVERLAY_SIDE))
    return overlay(small, scale_label_map(label_map, small.shape[:2]))


def _shrink(shown: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return scale_image(shown, fit_size(shown.shape, _TILE))


def _save_picture(path: Path, picture: NDArray[np.uint8], kind: str, *, drafts: Path | None = None) -> None:
    settings = {"quality": 90, "subsampling": 0} if kind == "JPEG" else {}
    with _replace(path, drafts) as partial:
        Image.fromarray(picture).save(partial, kind, **settings)


def _replace(place: Path, drafts: Path | None) -> AbstractContextManager[Path]:
    if drafts is None:
        return replace_whole(place)
    return replace_whole(place, mark=uuid.uuid4().hex, drafts=drafts)


def _write(path: Path, content: bytes) -> None:
    with replace_whole(path) as partial:
        partial.write_bytes(content)


def _tell_change(key: str, before: Any, now: Any) -> str:
    """Tell in a few words how a setting changed.

    Examples
    --------
    >>> _tell_change("crf", None, {"iterations": 10})
    'crf off there, on now'
    """
    if isinstance(before, dict) and isinstance(now, dict):
        return ", ".join(
            _tell_change(f"{key}.{k}", before.get(k), now[k]) for k in now if before.get(k) != now[k]
        )
    return f"{key} {_shorten(before)} there, {_shorten(now)} now"


def _shorten(value: Any) -> str:
    if value is None or isinstance(value, dict):
        return "on" if value else "off"
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:12] + "…"
