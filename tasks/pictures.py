"""The pictures that a stage works on, opened once in a process however many jobs read them.

An image store's index names all pictures: read anew for every job, it would make the time of a stage grow as
the square of their number.
"""

from __future__ import annotations

from pathlib import Path

from dsrg.places import follow
from dsrg.store import ImageStore
from tasks.prepared import forget, once_per_work


def begin_with_images(path: Path) -> ImageStore:
    """Begin a stage: forget what an earlier one kept, and open ``images.zarr``.

    Raises
    ------
    StoreError
        Missing or unreadable.
    """
    forget()
    return open_images(path)


def open_images(path: Path) -> ImageStore:
    """Open ``images.zarr``, once until the next stage begins.

    Raises
    ------
    StoreError
        Missing or unreadable.
    """
    return _open(follow(path))


@once_per_work
def _open(path: Path) -> ImageStore:
    images = ImageStore(path)
    len(images.index)  # read here, where other threads wait for it
    return images
