"""Places that are no folder of this machine: URLs of object stores, and of whatever else fsspec knows.

A store that lies elsewhere leaves a note in its place: a small JSON file that names the URL, so that whoever
opens, copies or versions the place gets what it names. What lies under a URL is written once and never again;
so readers may keep what they fetched, in a folder of their machine (:mod:`dsrg.kept`).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePath
from typing import Any, cast

MANIFEST = "objects.json"  # beside the arrays: what belongs to a finished store
_NOT_THEIRS = (MemoryError, TypeError, KeyError, IndexError, AttributeError, AssertionError)
_LOCAL = ("file://", "local://")


class PlaceError(Exception):
    """A place under a URL cannot be used; the message names it and what the other side says."""


def parse_place(text: str | Path) -> Path:
    """Make a path of what may be a path or a URL: ``s3://bucket/folder``.

    Returns
    -------
    Path
        Of a URL a ``upath.UPath``, which is used like one, but that :func:`is_remote` tells it apart.

    Raises
    ------
    PlaceError
        Nothing that is installed knows such URLs.
    """
    if not is_url(text):
        return Path(text)
    for scheme in _LOCAL:
        if str(text).startswith(scheme):
            return Path(str(text).removeprefix(scheme))
    from upath import UPath

    with reaching(text):
        place = UPath(str(text))
        place.fs  # noqa: B018 - loads what knows it
    return cast(Path, place)


def is_url(text: str | Path) -> bool:
    """Tell whether a text is a URL and no path."""
    return not isinstance(text, PurePath) and "://" in str(text)


def is_remote(place: Any) -> bool:
    """Tell whether a path came from a URL."""
    return not isinstance(place, PurePath) and hasattr(place, "fs")


@contextlib.contextmanager
def reaching(place: Path | str) -> Iterator[None]:
    """Reach for what lies under a URL: whatever the other side raises meanwhile is a :class:`PlaceError`.

    Every library of a kind of store has exceptions of its own, few of which are OSErrors. What is on this
    machine is left to itself.
    """
    if not is_url(place) and not is_remote(place):
        yield
        return
    try:
        yield
    except _NOT_THEIRS:
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("dsrg", "tasks"):
            raise
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        if isinstance(error, FileNotFoundError):
            reason = f"not found ({reason})"
        way_out = "check the address, and the credentials in the environment; what is finished was kept"
        if isinstance(error, ImportError):
            way_out = "install the package in the environment of every process that is to read it"
        raise PlaceError(f"`{place}` cannot be used: {reason}: {way_out}") from error


def fetch(places: Sequence[Path]) -> list[bytes | None]:
    """Fetch what lies under several URLs of one kind, all at a time; None where there is nothing."""
    if not places:
        return []
    with reaching(places[0]):
        fs: Any = cast(Any, places[0]).fs
        paths = [cast(Any, place).path for place in places]
        found = fs.cat(paths, on_error="return") if len(paths) > 1 else _cat_one(fs, paths[0])
        for error in found.values():
            if isinstance(error, Exception) and not isinstance(error, FileNotFoundError):
                raise error
        return [found[path] if isinstance(found[path], bytes) else None for path in paths]


def _cat_one(fs: Any, path: str) -> dict[str, Any]:
    """What fsspec gives for several, for one: it would give the bytes alone."""
    try:
        return {path: fs.cat_file(path)}
    except FileNotFoundError as error:
        return {path: error}


def list_below(place: Path, *, anew: bool = False) -> list[str]:
    """List what lies below a URL: relative paths with ``/``, sorted.

    What is asked of single files after this, such as their size, fsspec knows from the listing; `anew` has
    it forget what it knew before.
    """
    with reaching(place):
        fs: Any = cast(Any, place).fs
        if anew:
            fs.invalidate_cache()
        root = cast(Any, place).path.rstrip("/")
        return sorted(name[len(root) + 1 :] for name in fs.find(root))


# -- notes -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Note:
    """What stands in the place of a store that lies elsewhere.

    Attributes
    ----------
    store : str
        Its URL.
    content : str
        sha256 of its manifest: of the name, size and checksum of each of its objects.
    objects, bytes : int
        How many there are, and how large they are together.
    attributes : dict
        Of the store.
    """

    store: str
    content: str
    objects: int
    bytes: int
    attributes: dict[str, Any]

    def format(self) -> str:
        """Format it as JSON: equal notes are equal bytes."""
        return json.dumps(asdict(self), indent=2, sort_keys=True) + "\n"


def read_note(path: Path) -> Note | None:
    """Read the note in the place of a store; None where there is none."""
    return None if is_remote(path) or not path.is_file() else _parse_note(path.read_bytes())


def _parse_note(text: bytes) -> Note | None:
    try:
        return Note(**json.loads(text))
    except (ValueError, TypeError):
        return None


def follow(path: Path) -> Path:
    """Follow a note to the URL that it names; any other path is given back."""
    note = read_note(path)
    return path if note is None else parse_place(note.store)


def write_manifest(place: Path) -> Note:
    """List what belongs to a finished store, beside it, and make the note about it.

    Parameters
    ----------
    place : Path
        Of a URL.
    """
    with reaching(place):
        fs: Any = cast(Any, place).fs
        fs.invalidate_cache()  # workers elsewhere have written, too
        objects = _list_objects(fs, cast(Any, place).path)
        objects.pop(MANIFEST, None)
        text = json.dumps(objects, sort_keys=True)
        (place / MANIFEST).write_text(text, encoding="utf-8")
        attributes = json.loads((place / "zarr.json").read_text(encoding="utf-8"))["attributes"]
    return Note(
        store=str(place),
        content=hashlib.sha256(text.encode()).hexdigest(),
        objects=len(objects),
        bytes=sum(size for size, _ in objects.values()),
        attributes=attributes,
    )


def digest_below(url: str) -> str:
    """Digest names, sizes and checksums of all that lies below a URL, as it is now."""
    place: Any = parse_place(url)
    with reaching(url):
        place.fs.invalidate_cache()
        found = _list_objects(place.fs, place.path)
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def _list_objects(fs: Any, root: str) -> dict[str, tuple[int, str]]:
    return {
        name[len(root) :].lstrip("/"): (int(about["size"]), _find_checksum(about))
        for name, about in fs.find(root, detail=True).items()
    }


def _find_checksum(about: dict[str, Any]) -> str:
    """Find what an object store says of an object's content; not all say something."""
    for name in ("ETag", "etag", "md5Hash", "content_md5"):
        if about.get(name):
            return str(about[name]).strip('"')
    return secrets.token_hex(16)  # never equal to another


def find_equal(note: Note, home: str) -> Note:
    """Find the first store of equal content below a URL, which may be the one that `note` is about.

    Parameters
    ----------
    note : Note
    home : str
        The URL; the first of all equal ones is written down there.
    """
    place = _locate_equal(home, note.content)
    with reaching(place):
        found = _parse_note(place.read_bytes()) if place.exists() else None
        if found is not None and found.content == note.content and _stands(found):
            return found
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(note.format(), encoding="utf-8")
    return note


def forget_content(place: Path, home: str) -> None:
    """Have a store no longer be the first of its content below a URL: it is about to be removed."""
    with reaching(place):
        content = _hash_manifest(place)
        if content is not None:
            equal = _locate_equal(home, content)
            first = _parse_note(equal.read_bytes()) if equal.exists() else None
            if first is not None and first.store == str(place):
                equal.unlink()


def _locate_equal(home: str, content: str) -> Path:
    """Locate what says which store of a content was the first below a URL."""
    return parse_place(f"{home.rstrip('/')}/contents/{content}.json")


def _stands(note: Note) -> bool:
    """Tell whether what a note names is still there, whole as far as its manifest tells."""
    return _hash_manifest(parse_place(note.store)) == note.content


def _hash_manifest(place: Path) -> str | None:
    """Hash the manifest of a store, which is its content; None if it has none."""
    manifest = place / MANIFEST
    return hashlib.sha256(manifest.read_bytes()).hexdigest() if manifest.exists() else None


def remove_tree(place: Path) -> None:
    """Remove all that lies under a URL; nothing there is fine."""
    with reaching(place), contextlib.suppress(FileNotFoundError):
        fs: Any = cast(Any, place).fs
        fs.rm(cast(Any, place).path, recursive=True)


# -- reading and writing -----------------------------------------------------------------------


def open_zarr(place: Path, *, read_only: bool) -> Any:
    """Open what Zarr is to read or write: a folder, or what lies under a URL."""
    if not is_remote(place):
        return str(place)
    from dsrg.kept import RemoteStore, open_kept

    options = dict(cast(Any, place).storage_options)
    with reaching(place):
        if read_only:
            return open_kept(str(place), options)
        return RemoteStore.at(str(place), options, read_only=False)


def forget_copies(array: Any, shard: int) -> bool:
    """Remove what is kept on this machine of one shard of an array; tell whether there was something."""
    forget = getattr(array.store_path.store, "forget", None)
    return forget is not None and bool(forget(f"{array.path}/c/{shard}"))
