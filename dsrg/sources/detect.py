"""Which kind of source a folder is, by what lies in it."""

from __future__ import annotations

from pathlib import Path

from dsrg.places import reaching
from dsrg.sources.base import SourceError
from dsrg.sources.folder import TABLES
from dsrg.sources.voc import find_devkits

_PEEK = 2**16
_COCO_KEYS = (b'"images"', b'"annotations"', b'"categories"', b'"info"')


def detect_kind(path: Path) -> str:
    """Find the kind of source that a folder is: ``voc``, ``coco`` or ``folder``.

    ``voc`` has ``ImageSets/Segmentation``, ``coco`` has ``annotations/instances_*.json`` or an instances
    JSON of its own; everything else is for ``folder`` to judge.

    Raises
    ------
    SourceError
        The folder could be more than one kind.
    """
    with reaching(path):
        return _detect_kind(path)


def _detect_kind(path: Path) -> str:
    signs = {
        "folder": next((name for name in TABLES if (path / name).is_file()), ""),
        "voc": "ImageSets/Segmentation" if find_devkits(path) else "",
        "coco": _find_instances(path),
    }
    found = {kind: sign for kind, sign in signs.items() if sign}
    if len(found) > 1:
        what = ", ".join(f"{kind} ({sign})" for kind, sign in found.items())
        raise SourceError(
            str(path), [f"could be {what}: take away what does not belong, or set source.kind to one of them"]
        )
    return next(iter(found), "folder")


def _find_instances(path: Path) -> str:
    if any((path / "annotations").glob("instances_*.json")):
        return "annotations/instances_*.json"
    for file in sorted(path.glob("*.json")):
        if file.name not in TABLES and _looks_like_coco(file):
            return file.name
    return ""


def _looks_like_coco(file: Path) -> bool:
    """Tell by the first bytes whether a JSON is COCO's: it may be too large to be read for this."""
    with file.open("rb") as opened:
        begin = opened.read(_PEEK).lstrip(b"\xef\xbb\xbf \r\n\t")
    return begin.startswith(b"{") and any(key in begin for key in _COCO_KEYS)
