"""Sources of pictures with image-level labels; ingest reads them, nothing else does."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dsrg.sources.base import Reader, Source, SourceError
from dsrg.sources.coco import open_coco
from dsrg.sources.detect import detect_kind
from dsrg.sources.folder import open_folder
from dsrg.sources.records import Record, Records
from dsrg.sources.synthetic import open_synthetic
from dsrg.sources.voc import open_voc

KINDS = ("folder", "voc", "coco", "synthetic")

__all__ = ["KINDS", "Reader", "Record", "Records", "Source", "SourceError", "detect_kind", "open_source"]


def open_source(
    kind: str,
    path: Path,
    *,
    image_labels: str,
    categories: Sequence[str],
    num_train: int,
    num_val: int,
    size: int,
    random_seed: int,
) -> Source:
    """Open the source of one kind; every kind of source is listed here.

    Parameters
    ----------
    kind : str
        ``folder``, ``voc``, ``coco`` or ``synthetic``.
    path : Path
        The folder of pictures; not read by ``synthetic``.
    image_labels : str
        ``xml`` or ``masks``; read by ``voc`` only.
    categories : sequence of str
        Read by ``coco`` only.
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
    if kind == "voc":
        return open_voc(path, image_labels=image_labels)
    if kind == "coco":
        return open_coco(path, categories=categories)
    if kind == "synthetic":
        return open_synthetic(num_train=num_train, num_val=num_val, size=size, random_seed=random_seed)
    raise SourceError(kind, [f"is no kind of source: set `source.kind` to one of {', '.join(KINDS)}"])
