"""COCO's instances JSON, read into what this project needs of it; whatever is wrong becomes a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dsrg.sources.base import SourceError
from dsrg.sources.lists import parse_json
from dsrg.sources.regions import Outline, pack_outline

_SECTIONS = ("images", "annotations", "categories")
_KEPT = ("image_id", "category_id", "iscrowd", "segmentation")


@dataclass(frozen=True, slots=True)
class Picture:
    """One entry of ``images``; ``size`` is (height, width), or None where it is not given."""

    id: int | str
    file_name: str
    size: tuple[int, int] | None


@dataclass(frozen=True, slots=True)
class Annotation:
    """One entry of ``annotations``; ``outline`` is None where it gives no segmentation."""

    picture_id: int | str
    category_id: int
    crowd: bool
    outline: Outline | None


@dataclass(frozen=True)
class Category:
    """One entry of ``categories``."""

    id: int
    name: str
    supercategory: str


@dataclass(frozen=True)
class Instances:
    """One JSON file: categories by ascending id, pictures and annotations as they stand there."""

    path: Path
    pictures: tuple[Picture, ...]
    annotations: tuple[Annotation, ...]
    categories: tuple[Category, ...]


def read_instances(path: Path) -> tuple[Instances, list[str]]:
    """Read an instances JSON; bad entries are left out and told.

    Of every annotation only what is needed is kept, packed while the file is parsed: the 450 MB of
    COCO's training set never stand in memory as Python lists.

    Parameters
    ----------
    path : Path

    Returns
    -------
    instances : Instances
    problems : list of str

    Raises
    ------
    SourceError
        Unreadable, no JSON, or no COCO file.
    """
    content = parse_json(path, object_hook=_pack)
    missing = [name for name in _SECTIONS if not isinstance(content, dict) or name not in content]
    if missing:
        raise SourceError(
            str(path),
            [f"lacks {', '.join(missing)}: an instances JSON of COCO holds {', '.join(_SECTIONS)}"],
        )
    problems: list[str] = []
    categories = _read_categories(path, content["categories"])
    pictures = _read_pictures(path, content["images"], problems)
    annotations = _read_annotations(path, content["annotations"], pictures, categories, problems)
    return Instances(path, tuple(pictures), tuple(annotations), tuple(categories)), problems


def _pack(entry: dict[str, Any]) -> dict[str, Any]:
    """Keep of a parsed annotation what is needed, its outline packed; a bad one stands there as text."""
    if "image_id" not in entry or "category_id" not in entry:
        return entry
    kept = {key: entry[key] for key in _KEPT if key in entry}
    try:
        kept["segmentation"] = pack_outline(entry.get("segmentation"))
    except ValueError as error:
        kept["segmentation"] = str(error)
    return kept


def _read_categories(path: Path, entries: Any) -> list[Category]:
    found: dict[int, Category] = {}
    problems = []
    for number, entry in enumerate(entries if isinstance(entries, list) else []):
        key, name = _pick(entry, "id", "name")
        if not _is_int(key) or not isinstance(name, str) or not name.strip():
            problems.append(f"categories[{number}]: must have an `id` (a whole number) and a `name`")
        elif key in found:
            problems.append(f"categories[{number}] (`{name}`): id {key} is `{found[key].name}` already")
        else:
            found[key] = Category(key, name.strip(), str(entry.get("supercategory") or "").strip())
    if problems or not found:
        raise SourceError(str(path), problems or ["`categories` is empty: nothing could be learned"])
    return [found[key] for key in sorted(found)]


def _read_pictures(path: Path, entries: Any, problems: list[str]) -> list[Picture]:
    pictures: dict[int | str, Picture] = {}
    for number, entry in enumerate(entries if isinstance(entries, list) else []):
        place = f"{path.name} images[{number}]"
        key, name = _pick(entry, "id", "file_name")
        if not isinstance(name, str) or not name.strip() or not (_is_int(key) or isinstance(key, str)):
            problems.append(f"{place}: must have an `id` and a `file_name`")
            continue
        if key in pictures:
            problems.append(f"{place} (`{name}`): id {key!r} is `{pictures[key].file_name}` already")
            continue
        height, width = entry.get("height"), entry.get("width")
        known = _is_int(height) and _is_int(width) and height > 0 and width > 0
        pictures[key] = Picture(key, name.strip(), (height, width) if known else None)
    return list(pictures.values())


def _read_annotations(
    path: Path,
    entries: Any,
    pictures: Sequence[Picture],
    categories: Sequence[Category],
    problems: list[str],
) -> list[Annotation]:
    names = {picture.id: picture.file_name for picture in pictures}
    known = {category.id for category in categories}
    annotations = []
    for number, entry in enumerate(entries if isinstance(entries, list) else []):
        place = f"{path.name} annotations[{number}]"
        if not isinstance(entry, dict) or "image_id" not in entry or "category_id" not in entry:
            problems.append(f"{place}: must have an `image_id` and a `category_id`")
            continue
        picture, category, outline = entry["image_id"], entry["category_id"], entry["segmentation"]
        if not isinstance(picture, int | str) or picture not in names:
            problems.append(f"{place}: `image_id` {picture!r} is the id of no image")
        elif not _is_int(category) or category not in known:
            problems.append(f"{place} (`{names[picture]}`): `category_id` {category!r} is no category's id")
        elif isinstance(outline, str):
            problems.append(f"{place} (`{names[picture]}`): {outline}")
        else:
            annotations.append(Annotation(picture, category, bool(entry.get("iscrowd")), outline))
    return annotations


def _pick(entry: Any, *keys: str) -> tuple[Any, ...]:
    return tuple(entry.get(key) if isinstance(entry, dict) else None for key in keys)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
