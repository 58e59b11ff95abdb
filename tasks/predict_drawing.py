"""Pictures drawn and written for ``predict``: by this process, a few at a time, or by a Dask cluster.

Workers of a cluster read pictures and write masks and overlays themselves. What travels are paths, settings
and counts, and the small overlays of the first pictures, which the sheet is made of. They write into the
results' folder only as long as the command lasts, by way of a folder in it that ends with the command.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
import uuid
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dsrg.drawing import Progress, Style, draw_label_map
from dsrg.image import DecodeError, read_image
from tasks import console
from tasks.errors import UserError
from tasks.inference import choose_threads
from tasks.predict_models import Model, hash_file, open_network
from tasks.predict_outputs import Outputs, Seen
from tasks.predict_pictures import Picture
from tasks.prepared import prepare_once
from tasks.schema import Compute
from tasks.shards import map_in_threads

if TYPE_CHECKING:
    from dsrg.drawing import Network

DRAFTS = ".dsrg-drafts"  # begins the name of the folder that workers write by way of
_LOT = 16  # pictures of a job, so that handing it out takes little beside drawing them
_LOTS_PER_THREAD = 4  # at least, so that no worker is idle for long while others end
_MOST_BYTES = 2 << 30  # that a picture takes: many classes, 12 megapixels
_Drawn = tuple[NDArray[np.uint8], NDArray[np.uint8]]  # picture and label map


@dataclass(frozen=True)
class Drawing:
    """How pictures are drawn.

    Attributes
    ----------
    model : Model
    style : Style
    compute : Compute
    pictures : int
        All that were named, also those that an earlier try has drawn.
    settings : dict
        All that decides a mask, but the picture.
    """

    model: Model
    style: Style
    compute: Compute
    pictures: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class Unreadable:
    """Why a picture cannot be read, and the machine on which it is missing, if it is."""

    reason: str
    missing_on: str = ""


def draw_pictures(
    pictures: Sequence[Picture], drawing: Drawing, outputs: Outputs, *, network: Network | None
) -> list[str]:
    """Draw pictures, write what is made of them, and note it in their order.

    Parameters
    ----------
    pictures : sequence of Picture
    drawing : Drawing
    outputs : Outputs
        Begun.
    network : Network or None
        Open; None where a cluster draws.

    Returns
    -------
    list of str
        Names of the pictures that cannot be read.

    Raises
    ------
    UserError
        The cluster is not there, not fit, or does not find what this process finds.
    """
    unreadable: list[str] = []
    done = 0
    with console.show_progress("predict") as report:

        def show_tiles(drawn: int, total: int) -> None:
            report(done, len(pictures), tile=f"{drawn}/{total}")

        if network is None:
            results = _draw_on_cluster(pictures, drawing, outputs)
        else:
            results = _draw_here(pictures, drawing, outputs, network, show_tiles)
        with contextlib.closing(results):
            for picture, seen in zip(pictures, results, strict=True):
                if isinstance(seen, Unreadable):
                    console.warn(f"{picture.name}: {seen.reason}: left out")
                    unreadable.append(picture.name)
                else:
                    outputs.note(picture, seen)
                done += 1
                report(done, len(pictures))
    return unreadable


def _draw_here(
    pictures: Sequence[Picture], drawing: Drawing, outputs: Outputs, network: Network, report: Progress
) -> Generator[Seen | Unreadable, None, None]:
    """Draw several pictures at a time, and write them in their order."""
    threads = min(choose_threads(drawing.compute, pictures=drawing.pictures), _count_fitting(drawing.style))

    def draw(picture: Picture) -> _Drawn | DecodeError:
        try:
            image = read_image(picture.path)
        except DecodeError as error:
            return error
        return image, draw_label_map(network, image, drawing.style, report=report)

    for picture, drawn in zip(pictures, map_in_threads(draw, pictures, threads, ahead=1), strict=True):
        if isinstance(drawn, DecodeError):
            yield Unreadable(str(drawn))
        else:
            yield outputs.write(picture, *drawn, with_tile=outputs.tiles_wanted > 0)


def _count_fitting(style: Style) -> int:
    """Count the pictures that memory has room for at a time."""
    import psutil

    if style.tile is not None:
        return 1  # its planes are as large as the picture
    return max(1, int(psutil.virtual_memory().available) // _MOST_BYTES)


# -- on a cluster --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lot:
    """A few pictures to draw: all that a worker needs beside what is the same for all.

    Attributes
    ----------
    pictures : tuple of Picture
    tiles : int
        For so many of them, the first, tiles are wanted.
    """

    pictures: tuple[Picture, ...]
    tiles: int


def _draw_on_cluster(
    pictures: Sequence[Picture], drawing: Drawing, outputs: Outputs
) -> Generator[Seen | Unreadable, None, None]:
    """Have the workers of a cluster draw and write pictures; yield what they saw in the pictures' order."""
    if not pictures:
        return
    from tasks.cluster import begin_on_cluster, count_threads

    compute = drawing.compute
    cluster: Any = {"cluster": compute.cluster, "workers": compute.workers}
    size = choose_lot_size(len(pictures), threads=count_threads(**cluster), tiled=bool(drawing.style.tile))
    wanted = 2 * outputs.tiles_wanted  # some may be unreadable
    lots = [
        Lot(tuple(pictures[start : start + size]), max(0, min(size, wanted - start)))
        for start in range(0, len(pictures), size)
    ]
    with open_drafts(outputs.folder.absolute()) as drafts:
        model = share_model(drawing.model, drafts)
        draw = partial(draw_lot, replace(drawing, model=model), drafts)
        for lot, results in zip(lots, begin_on_cluster(draw, lots, **cluster), strict=True):
            for picture, seen in zip(lot.pictures, results, strict=True):
                if isinstance(seen, Unreadable) and seen.missing_on and picture.path.exists():
                    raise UserError(
                        f"`{picture.path}` is here, but not on {seen.missing_on}: workers must find pictures "
                        "in the same places, on a file system that all share"
                    )
                yield seen


def choose_lot_size(pictures: int, *, threads: int, tiled: bool) -> int:
    """Choose how many pictures are one job: few where that leaves workers idle, one if it may take minutes.

    Examples
    --------
    >>> choose_lot_size(10_000, threads=8, tiled=False)
    16
    >>> choose_lot_size(100, threads=8, tiled=False)
    4
    """
    return 1 if tiled else max(1, min(_LOT, -(-pictures // (_LOTS_PER_THREAD * threads))))


@contextlib.contextmanager
def open_drafts(folder: Path) -> Iterator[Path]:
    """Make a folder in the results' for what workers are writing; once it is gone, they write no more.

    A worker that a cluster took for dead, or that is at its job when the command is stopped, cannot put
    anything among the results of a later one.
    """
    drafts = folder / f"{DRAFTS}-{uuid.uuid4().hex}"
    drafts.mkdir(parents=True)
    try:
        yield drafts
    finally:
        ended = drafts.with_name(f"{drafts.name}-ended")
        with contextlib.suppress(OSError):  # somebody removed it, or all of the results
            drafts.rename(ended)  # at once: a worker may be writing into it
            shutil.rmtree(ended, ignore_errors=True)


def share_model(model: Model, drafts: Path) -> Model:
    """Name a model's file as workers find it; one that was fetched for this process is put beside drafts."""
    if not model.fetched:
        return replace(model, path=model.path.absolute())
    return replace(model, path=Path(shutil.copy(model.path, drafts / model.path.name)))


class _Desk(NamedTuple):
    """What a worker draws with: its network, and room for so many pictures at a time."""

    network: Network
    room: threading.Semaphore


def draw_lot(drawing: Drawing, drafts: Path, lot: Lot) -> list[Seen | Unreadable]:
    """Draw the pictures of a lot, in a worker, and write what is made of them; those done are left."""
    outputs = Outputs(drafts.parent, drawing.model.classes, drawing.settings, drafts)
    seen = []
    for number, picture in enumerate(lot.pictures):
        if not drafts.is_dir():
            raise UserError(
                f"`{drafts.parent}` on {socket.gethostname()} is another folder than here: workers must find "
                "it in the same place, on a file system that all share"
            )
        desk = prepare_once("predict", partial(_prepare_desk, drawing))
        with desk.room:
            seen.append(_draw_one(picture, drawing, outputs, desk.network, with_tile=number < lot.tiles))
    return seen


def _draw_one(
    picture: Picture, drawing: Drawing, outputs: Outputs, network: Network, *, with_tile: bool
) -> Seen | Unreadable:
    try:
        if picture.path.exists() and outputs.is_done(picture):  # by a worker that was lost at this lot
            return outputs.look_again(picture, with_tile=with_tile)
        image = read_image(picture.path)
    except DecodeError as error:
        missing = not picture.path.exists()
        return Unreadable(str(error), socket.gethostname() if missing else "")
    label_map = draw_label_map(network, image, drawing.style)
    return outputs.write(picture, image, label_map, with_tile=with_tile)


def _prepare_desk(drawing: Drawing) -> _Desk:
    model, host = drawing.model, socket.gethostname()
    if not model.path.is_file() or hash_file(model.path) != model.digest:
        raise UserError(
            f"`{model.path}` on {host} is not there, or another file than here: workers must find the model "
            "in the same place, on a file system that all share"
        )
    try:
        network = open_network(model, drawing.compute, pictures=drawing.pictures)
    except UserError as error:
        raise UserError(f"a Dask worker on {host}: {error}") from None
    return _Desk(network, threading.Semaphore(_count_fitting(drawing.style)))
