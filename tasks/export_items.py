"""What there is to export: the training pictures, with the files they came from."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from dsrg.labels import list_present
from dsrg.sources import Record, Source
from dsrg.sources.records import is_file
from dsrg.store import ImageStore
from tasks.errors import UserError
from tasks.ingest_verdict import open_params_source
from tasks.params import Params, check_source
from tasks.workspace import Workspace


@dataclass(frozen=True)
class Item:
    """One picture to export.

    Attributes
    ----------
    id : str
        Without suffix or slash; the stem of files that are named after the picture.
    row : int
        In the stores.
    record : Record
        Where the picture is.
    file_name : str
        Of the picture, below the folder that all have in common, with ``/``.
    size, original_size : (height, width)
        In the store, and of the picture itself.
    present : tuple of int
        Class ids that it may hold.
    """

    id: str
    row: int
    record: Record
    file_name: str
    size: tuple[int, int]
    original_size: tuple[int, int]
    present: tuple[int, ...]

    @property
    def scale(self) -> float:
        """Original pixels to a stored one."""
        return max(self.original_size[0] / self.size[0], self.original_size[1] / self.size[1])


def open_pictures(params: Params, workspace: Workspace) -> Source:
    """Open the source that the workspace was ingested from, to get at its pictures."""
    check_source(params, workspace.root)
    return open_params_source(params, workspace.path(params.source.path))


def list_items(images: ImageStore, source: Source) -> list[Item]:
    """List the training pictures, in the order of their ids.

    Raises
    ------
    UserError
        A picture that was ingested is no longer in the source, or its name fits no list.
    """
    index = images.index
    by_id = {record.id: record for record in source.records}
    rows = index.rows("train").tolist()
    gone = [str(index.ids[row]) for row in rows if str(index.ids[row]) not in by_id]
    if gone:
        raise UserError(
            f"`{source.where}` no longer holds {len(gone)} of the pictures that were ingested, first "
            f"{gone[0]}: bring them back, or `dsrg run`"
        )
    odd = [name for name in map(str, index.ids[rows]) if name != name.strip() or not name.isprintable()]
    if odd:
        raise UserError(
            f"{odd[0]!r}: lists hold no name that begins or ends with a space: rename that picture"
        )
    records = [by_id[str(index.ids[row])] for row in rows]
    return [
        Item(
            id=record.id,
            row=row,
            record=replace(record, mask=None),  # no mask is read here, nor could be
            file_name=file_name,
            size=(int(index.sizes[row][0]), int(index.sizes[row][1])),
            original_size=(int(index.original_sizes[row][0]), int(index.original_sizes[row][1])),
            present=tuple(list_present(index.image_labels[row]).tolist()),
        )
        for row, record, file_name in zip(rows, records, name_files(records), strict=True)
    ]


def name_files(records: Sequence[Record]) -> list[str]:
    """Name the pictures by their files, below the folder that all of them have in common.

    A drawn picture has no file: its name is its id with the suffix png.
    """
    names = [
        PurePosixPath(record.name if is_file(record.picture) else f"{record.id}.png") for record in records
    ]
    common = PurePosixPath(os.path.commonpath([name.parent for name in names]))
    return [str(name.relative_to(common)) for name in names]
