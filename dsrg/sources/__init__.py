"""Sources of pictures with image-level labels; ingest reads them, nothing else does."""

from __future__ import annotations

from pathlib import Path

from dsrg.sources.base import Reader, Record, Source, SourceError
from dsrg.sources.folder import open_folder
from dsrg.sources.synthetic import open_synthetic

KINDS = ("folder", "synthetic")
_LATER = ("voc", "coco")

__all__ = ["KINDS", "Reader", "Record", "Source", "SourceError", "open_source"]


def open_source(
    kind: str, path: Path, *, num_train: int, num_val: int, size: int, random_seed: int
) -> Source:
    """Open the source of one kind; every kind of source is listed here.

    Parameters
    ----------
    kind : str
        ``folder`` or ``synthetic``.
    path : Path
        The folder of pictures; not read by ``synthetic``.
    num_train, num_val, size, random_seed : int
        Read by ``synthetic`` only.

    Returns
    -------
    Source

    Raises
    ------
    SourceError
        Unknown kind, or the source cannot be listed.
    """
    if kind == "folder":
        return open_folder(path)
    if kind == "synthetic":
        return open_synthetic(num_train=num_train, num_val=num_val, size=size, random_seed=random_seed)
    if kind in _LATER:
        raise SourceError(
            kind, ["this source arrives later: lay the data out for `source.kind: folder` until then"]
        )
    raise SourceError(kind, [f"is no kind of source: set `source.kind` to one of {', '.join(KINDS)}"])
