"""Stores under the URL of ``compute.stores``: which there are, who names them, and removing what nobody does.

A run leaves every store it made: notes of earlier runs, in DVC's cache, name them. What ``dvc gc`` removes
there leaves stores that nothing names any more.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from dsrg.places import MANIFEST, Note, forget_content, parse_place, reaching, read_note, remove_tree
from tasks import console
from tasks.errors import UserError
from tasks.params import Params
from tasks.workspace import AWAY, NO_STORES, WORK

_LARGEST_NOTE = 1_000_000
_FOLDERS = ("data", "restored", f"{WORK}/runs")


@dataclass(frozen=True)
class FarStore:
    """A store under a URL.

    Attributes
    ----------
    url : str
    written : datetime
        When its metadata was written last.
    objects, bytes : int
        0 where it was never finished.
    named_by : str
        ``this project``, ``an earlier run``, ``work to go on with``, or nothing.
    """

    url: str
    written: datetime
    objects: int
    bytes: int
    named_by: str


def list_far(params: Params, root: Path, cache: Path) -> list[FarStore]:
    """List the stores under ``compute.stores``, by age, the oldest first.

    Parameters
    ----------
    params : Params
    root : Path
        The project.
    cache : Path
        Its DVC cache.

    Raises
    ------
    UserError
        Stores lie below ``data/``.
    PlaceError
        The URL cannot be reached.
    """
    if params.compute.stores == NO_STORES:
        raise UserError("compute.stores is `none`: stores lie below data/, and `dvc gc` removes old ones")
    place: Any = parse_place(params.compute.stores)
    names = _list_names(root, cache)
    found = []
    with reaching(place):
        place.fs.invalidate_cache()
        for stage in _list_folders(place):
            for work in _list_folders(stage):
                stores = [store for store in _list_folders(work) if store.name.endswith(".zarr")]
                found += [_describe(store, names) for store in stores]
    return sorted(found, key=lambda store: (store.written, store.url))


def find_unnamed(stores: list[FarStore], *, days: float) -> list[FarStore]:
    """Find the stores that nothing here names and that are older than `days`."""
    limit = datetime.now(UTC) - timedelta(days=days)
    return [store for store in stores if not store.named_by and store.written <= limit]


def remove(params: Params, stores: list[FarStore]) -> None:
    """Remove stores for good."""
    for store in console.track(stores, "remove"):
        forget_content(parse_place(store.url), params.compute.stores)
        remove_tree(parse_place(store.url))


def _list_folders(place: Any) -> list[Any]:
    return sorted((below for below in place.iterdir() if below.is_dir()), key=str) if place.is_dir() else []


def _describe(store: Any, names: dict[str, str]) -> FarStore:
    manifest = store / MANIFEST
    sizes: list[int] = []
    if manifest.exists():
        sizes = [size for size, _ in json.loads(manifest.read_bytes()).values()]
    written = store.fs.modified((store / "zarr.json").path)
    return FarStore(str(store), written, len(sizes), sum(sizes), names.get(str(store), ""))


def _list_names(root: Path, cache: Path) -> dict[str, str]:
    """List the URLs that something here names, and what does."""
    names = {note.store: "an earlier run" for note in _list_cached(cache)}
    for place in (root / WORK).rglob(AWAY):
        names |= dict.fromkeys(json.loads(place.read_bytes()).values(), "work to go on with")
    for folder in _FOLDERS:
        for place in (root / folder).rglob("*.zarr"):
            note = read_note(place) if place.is_file() else None
            if note is not None:
                names[note.store] = "this project"
    return names


def _list_cached(cache: Path) -> Iterator[Note]:
    for place in (cache / "files" / "md5").glob("*/*"):
        if place.is_file() and place.stat().st_size <= _LARGEST_NOTE:
            note = read_note(place)
            if note is not None:
                yield note
