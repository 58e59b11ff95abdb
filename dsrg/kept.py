"""Zarr stores under a URL: what the other side refuses is told in one line, and what was fetched is kept.

One shard is one object, put there whole by one writer. Readers fetch a shard whole, once for all processes of
a machine, and read its pictures from the copy: an epoch in random order would otherwise ask the object
store twice for every picture.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from zarr.storage import FsspecStore, LocalStore, WrapperStore

from dsrg.places import MANIFEST, PlaceError, reaching

if TYPE_CHECKING:
    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

FOLDER = "DSRG_CACHE"  # variable: where copies lie
LIMIT = "DSRG_CACHE_GB"  # variable: how much of them
DEFAULT_GB = 50.0
ROOT, FINISHED = "zarr.json", "digest"  # the attribute that a store gets last
_SHARDS = "/c/"  # in keys of arrays' data; the rest is small, and changes until a store is finished
_FETCHES = 32  # between two looks at how much is kept

_opened: dict[str, KeptStore] = {}


class RemoteStore(WrapperStore[FsspecStore]):
    """What lies under a URL; errors are of :class:`dsrg.places.PlaceError`."""

    def __init__(self, store: FsspecStore, url: str) -> None:
        super().__init__(store)
        self.url = url

    @classmethod
    def at(cls, url: str, options: dict[str, Any], *, read_only: bool) -> Self:
        """Open what lies under `url`, of what `options` are for fsspec."""
        return cls(FsspecStore.from_url(url, storage_options=options, read_only=read_only), url)

    def _with_store(self, store: FsspecStore) -> Any:
        return type(self)(store, self.url)

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Get an object, or None where there is none."""
        with reaching(self.url):
            return await self._store.get(key, prototype, byte_range)

    async def set(self, key: str, value: Buffer) -> None:
        """Put an object."""
        with reaching(self.url):
            await self._store.set(key, value)

    async def delete(self, key: str) -> None:
        """Remove an object: Zarr does so with a shard that holds nothing."""
        with reaching(self.url):
            await self._store.delete(key)

    async def delete_dir(self, prefix: str) -> None:
        """Remove all objects below a prefix: Zarr begins a new group so."""
        with reaching(self.url):
            await self._store.delete_dir(prefix)


class KeptStore(RemoteStore):
    """The same to be read only; whole shards are kept in a folder of this machine.

    A store that is finished never changes: this process keeps its metadata too (:func:`open_kept`).

    Parameters
    ----------
    store : FsspecStore
    url : str
    """

    finished = False

    def __init__(self, store: FsspecStore, url: str) -> None:
        super().__init__(store, url)
        self._folder = locate_copies(url)
        self._copies = LocalStore(self._folder, read_only=True)
        self._locks: dict[str, asyncio.Lock] = {}
        self._touched: set[str] = set()
        self._absent: set[str] = set()
        self._metadata: dict[str, bytes] = {}
        self._manifest: dict[str, Any] | None = None
        self._fetched = 0

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Get an object or a part of it, from the copy of a shard; None where there is none."""
        if _SHARDS not in key:
            return await self._get_metadata(key, prototype)
        if key in self._absent:
            return None
        found = await self._read_copy(key, prototype, byte_range)
        if found is not None:
            self._touch(key)
            return found
        async with self._locks.setdefault(key, asyncio.Lock()):
            found = await self._read_copy(key, prototype, byte_range)  # another was waited for
            if found is not None:
                return found
            whole = await super().get(key, prototype)
            if whole is None:
                await self._note_absent(key, prototype)
                return None
            if not self._keep(key, whole):
                return await super().get(key, prototype, byte_range)
        # a copy that another process removed meanwhile, to make room, is no empty shard
        found = await self._read_copy(key, prototype, byte_range)
        return await super().get(key, prototype, byte_range) if found is None else found

    async def _get_metadata(self, key: str, prototype: BufferPrototype) -> Buffer | None:
        if key in self._metadata:
            return prototype.buffer.from_bytes(self._metadata[key])
        found = await super().get(key, prototype)
        if found is not None:
            if key == ROOT:
                self.finished = FINISHED in json.loads(found.to_bytes()).get("attributes", {})
            if self.finished:
                self._metadata[key] = found.to_bytes()
        return found

    async def _read_copy(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None
    ) -> Buffer | None:
        with contextlib.suppress(FileNotFoundError):  # of the folder
            return await self._copies.get(key, prototype, byte_range)
        return None

    async def _note_absent(self, key: str, prototype: BufferPrototype) -> None:
        """Zarr takes an absent shard for an empty one: make sure that it never was there."""
        if self._manifest is None:
            listed = await super().get(MANIFEST, prototype)
            if listed is not None:
                self._manifest = json.loads(listed.to_bytes())
            elif await super().get(ROOT, prototype) is None:
                raise PlaceError(f"`{self.url}` is gone from there: run the stage again that made it")
        if key in (self._manifest or ()):
            raise PlaceError(
                f"`{self.url}/{key}` is gone: bring it back, or run the stage again that made it"
            )
        self._absent.add(key)

    def _keep(self, key: str, whole: Buffer) -> bool:
        place = self._folder / key
        partial = place.with_name(f".{place.name}.{os.getpid()}")
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(whole.to_bytes())
                file.flush()
                os.fsync(file.fileno())
            partial.replace(place)
        except OSError as error:
            with contextlib.suppress(OSError):
                partial.unlink()
            warnings.warn(f"nothing is kept of {self.url} ({error})", RuntimeWarning, stacklevel=2)
            return False
        self._touched.add(key)
        self._fetched += 1
        if (self._fetched - 1) % _FETCHES == 0:
            make_room(locate_copies(), float(os.environ.get(LIMIT, DEFAULT_GB)) * 1e9)
        return True

    def _touch(self, key: str) -> None:
        """Mark a copy as used, once a process: those used longest ago are removed first."""
        if key not in self._touched:
            self._touched.add(key)
            with contextlib.suppress(OSError):
                os.utime(self._folder / key)

    def forget(self, prefix: str) -> bool:
        """Remove the copies of what begins with `prefix`; tell whether there were any."""
        place = self._folder / prefix
        found = place.exists()
        shutil.rmtree(place, ignore_errors=True)
        return found


def open_kept(url: str, options: dict[str, Any]) -> KeptStore:
    """Open what lies under a URL for reading, once a process if it is finished."""
    found = _opened.get(url)
    if found is None or not found.finished:
        found = _opened[url] = KeptStore.at(url, options, read_only=True)
    return found


def locate_copies(url: str = "") -> Path:
    """Locate the folder for copies of what lies under a URL, or that for all."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    # a folder of its own below what the user names: much is removed there
    folder = Path(os.environ.get(FOLDER) or Path(home) / "dsrg") / "shards"
    return folder / hashlib.sha256(url.encode()).hexdigest()[:32] if url else folder


def make_room(folder: Path, limit: float) -> None:
    """Remove the copies used longest ago, until the others are `limit` bytes or less."""
    found = []
    for place in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another process may be at it too
            if place.is_file():
                about = place.stat()
                found.append((about.st_mtime, about.st_size, place))
    total = sum(size for _, size, _ in found)
    for _, size, place in sorted(found, key=lambda one: one[0]):
        if total <= limit:
            return
        with contextlib.suppress(OSError):
            place.unlink()
        total -= size
