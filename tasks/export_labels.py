"""Labels for other programs: pseudo-labels, seeds or cues at the size of the original pictures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from dsrg.exchange import Unlabelled, restore_label_map
from dsrg.groups import StoreError
from dsrg.image import DecodeError
from dsrg.labels import BACKGROUND, IGNORE_INDEX
from dsrg.sources import Reader, SourceError
from dsrg.store import ImageStore, LabelStore
from tasks import console
from tasks.errors import UserError
from tasks.export_files import write_json
from tasks.export_items import Item, list_items, open_pictures
from tasks.export_layouts import Facts, Layout, Segmentation, build_layout
from tasks.export_pictures import Fate, Mode, place_picture
from tasks.params import Params
from tasks.schema import NO_CLUSTER
from tasks.shards import map_shards
from tasks.workspace import Workspace

What = Literal["pseudo-labels", "seeds", "cues"]
NOTE = "dsrg-export.json"
_LOT = 16
# what is exported: array, stage that makes it, store
_KINDS: dict[str, tuple[str, str, str]] = {
    "pseudo-labels": ("pseudo_label", "refine", "data/rounds/{}/pseudo_labels.zarr"),
    "seeds": ("seed", "relabel", "data/rounds/{}/seeds.zarr"),
    "cues": ("cue", "cues", "data/cues.zarr"),
}


@dataclass(frozen=True)
class Settings:
    """What an export is asked to be.

    Attributes
    ----------
    format : str
        One of :data:`tasks.export_layouts.FORMATS`.
    what : {'pseudo-labels', 'seeds', 'cues'}
    round_key : str or None
        The last round if None; not for cues.
    labels : Path or None
        A store brought back from an earlier run, in place of the workspace's own.
    unlabelled : {'keep', 'background', 'nearest'}
        What becomes of pixels without a label.
    images : {'copy', 'link', 'none'}
        What becomes of the pictures.
    segmentation : {'rle', 'polygons'}
        Of COCO annotations.
    simplify : float
        Polygons may leave the border by so many pixels of the stored labels.
    min_area : int
        Polygons of smaller regions, in pixels of the picture, are left out.
    """

    format: str
    what: What = "pseudo-labels"
    round_key: str | None = None
    labels: Path | None = None
    unlabelled: Unlabelled = "keep"
    images: Mode = "copy"
    segmentation: Segmentation = "rle"
    simplify: float = 1.0
    min_area: int = 0


@dataclass(frozen=True)
class Lot:
    """A few pictures to export: all that a worker needs."""

    items: tuple[Item, ...]
    reader: Reader
    store: Path
    array: str
    out: Path
    layout: Layout
    unlabelled: Unlabelled
    images: Mode


@dataclass(frozen=True)
class Done:
    """What became of one picture.

    Attributes
    ----------
    counts : (3,) list of int
        Pixels of foreground, of background and without a label.
    fate : str
        What became of the picture, see :func:`tasks.export_pictures.place_picture`.
    found : list of dict
        What the lists of the layout need.
    """

    counts: list[int]
    fate: Fate
    found: list[dict[str, Any]]


def export_labels(params: Params, workspace: Workspace, out: Path, settings: Settings) -> dict[str, Any]:
    """Export the labels of all training pictures.

    An export that was cut off goes on where it was when the same is asked for again.

    Reads: ``data/images.zarr``, the store of labels, the pictures of the source.
    Writes: below `out`.

    Parameters
    ----------
    params : Params
    workspace : Workspace
    out : Path
        Empty, or holding an export with the same settings.
    settings : Settings

    Returns
    -------
    dict
        For JSON: what was exported, how much of it is labelled, how to read it.

    Raises
    ------
    UserError
        No such labels, pictures that are gone or changed, or a folder that holds something else.
    """
    try:
        return _export(params, workspace, out, settings)
    except (StoreError, SourceError, DecodeError) as error:
        raise UserError(str(error)) from error


def _export(params: Params, workspace: Workspace, out: Path, settings: Settings) -> dict[str, Any]:
    if params.compute.cluster != NO_CLUSTER:  # whose workers have another current folder
        workspace, out = Workspace(workspace.root.resolve()), out.resolve()
    images = ImageStore(workspace.path("data/images.zarr"))
    place, round_key = _locate_labels(params, workspace, settings)
    array, stage, _ = _KINDS[settings.what]
    labels = LabelStore(place, array, stage=stage if round_key is None else f"{stage}@{round_key}")
    _check_shape(labels, images, place)
    source = open_pictures(params, workspace)
    items = list_items(images, source)
    layout = build_layout(
        settings.format,
        out,
        images.index.classes,
        items,
        segmentation=settings.segmentation,
        simplify=settings.simplify,
        min_area=settings.min_area,
    )
    title = f"{settings.what} of {params.source.name}" + (f", round {round_key}" if round_key else "")
    note = {
        "title": title,
        "what": settings.what,
        "round": round_key,
        **{
            key: value
            for key, value in asdict(settings).items()
            if key not in ("what", "round_key", "labels")
        },
        "labels_digest": str(labels.attributes.get("digest")),
        "pictures_digest": hashlib.sha256(f"{images.digest} {source.fingerprint}".encode()).hexdigest(),
    }
    _claim(out, note)
    lots = [
        Lot(
            tuple(items[start : start + _LOT]),
            source.reader,
            place,
            array,
            out,
            layout,
            settings.unlabelled,
            settings.images,
        )
        for start in range(0, len(items), _LOT)
    ]
    found = map_shards(export_lot, lots, compute=params.compute, description=f"export {settings.format}")
    done = [one for lot in found for one in lot]
    if LabelStore(place, array, stage=stage).attributes.get("digest") != labels.attributes.get("digest"):
        raise UserError(
            f"`{place}` changed meanwhile, another run works here: `dsrg wait`, then export again"
        )
    return _finish(out, layout, items, done, note)


def export_lot(lot: Lot) -> list[Done]:
    """Export a few pictures and their labels."""
    labels = LabelStore(lot.store, lot.array, stage="refine")
    done = []
    for item in lot.items:
        fate = place_picture(
            item.record,
            lot.reader,
            lot.out / lot.layout.name_picture(item),
            mode=lot.images,
            original_size=item.original_size,
            fits=lot.layout.fits,
        )
        stored = labels.read(item.row, item.size)
        _check_classes(stored, item, lot.store)
        label_map = restore_label_map(stored, item.original_size, unlabelled=lot.unlabelled)
        found = lot.layout.write_labels(lot.out, item, label_map)
        done.append(Done(count_pixels(label_map), fate, found))
    return done


def count_pixels(label_map: NDArray[np.uint8]) -> list[int]:
    """Count the pixels of foreground, of background and without a label."""
    counts = np.bincount(label_map.ravel(), minlength=IGNORE_INDEX + 1)
    background, unlabelled = int(counts[BACKGROUND]), int(counts[IGNORE_INDEX])
    return [label_map.size - background - unlabelled, background, unlabelled]


# -- what is there -----------------------------------------------------------------------------


def _locate_labels(params: Params, workspace: Workspace, settings: Settings) -> tuple[Path, str | None]:
    """Locate the store of labels, and name the round it is of."""
    _, stage, place = _KINDS[settings.what]
    key = settings.round_key
    if settings.what == "cues" and key is not None:
        raise UserError(f"cues belong to no round, got --round {key}: leave it out")
    if settings.labels is not None:
        if not settings.labels.exists():
            raise UserError(
                f"--labels must be a store such as `dsrg labels restore` makes, got `{settings.labels}`"
            )
        return settings.labels.resolve(), key
    if settings.what == "cues":
        return workspace.path(place), None
    key = params.round_keys[-1] if key is None else key
    store = workspace.path(place.format(key))
    if not store.exists():
        here = [r for r in _list_rounds(workspace) if workspace.path(place.format(r)).exists()]
        hint = f"there are those of round {', '.join(here)}; or run" if here else "run"
        raise UserError(f"`{store.relative_to(workspace.root)}` not found: {hint} `dvc repro {stage}@{key}`")
    return store, key


def _list_rounds(workspace: Workspace) -> list[str]:
    folder = workspace.path("data/rounds")
    names = [place.name for place in folder.iterdir() if place.name.isdigit()] if folder.is_dir() else []
    return sorted(names, key=int)


def _check_shape(labels: LabelStore, images: ImageStore, place: Path) -> None:
    if len(labels) != len(images) or labels.canvas != images.canvas:
        raise UserError(
            f"`{place}` holds {len(labels)} label maps of {labels.canvas} pixels, data/images.zarr "
            f"{len(images)} pictures of {images.canvas}: of other pictures or another `ingest.canvas`"
        )


def _check_classes(label_map: NDArray[np.uint8], item: Item, place: Path) -> None:
    """Refuse labels that hold what their picture does not: those of other pictures."""
    strange = set(np.unique(label_map).tolist()) - {*item.present, IGNORE_INDEX}
    if strange:
        raise UserError(
            f"`{place}` labels {item.id} as class {min(strange)}, which the picture does not hold: "
            "these labels are of other pictures"
        )


# -- the folder --------------------------------------------------------------------------------


def _claim(out: Path, note: dict[str, Any]) -> None:
    """Make the folder, and note what it is for; refuse one that holds anything else."""
    place = out / NOTE
    if out.exists() and not out.is_dir():
        raise UserError(f"--out must be a folder, but `{out}` is a file: name another")
    if place.is_file():
        try:
            there = json.loads(place.read_text(encoding="utf-8"))
        except (ValueError, OSError):
            there = {}
        differs = [key for key, value in note.items() if there.get(key) != value]
        if differs:
            raise UserError(
                f"`{out}` holds another export (other {', '.join(differs)}): remove it, or name another "
                "folder with --out"
            )
        return
    if out.is_dir() and any(out.iterdir()):
        raise UserError(f"`{out}` holds something else already: name an empty or new folder with --out")
    write_json(place, {**note, "complete": False})


def _finish(
    out: Path, layout: Layout, items: Sequence[Item], done: Sequence[Done], note: dict[str, Any]
) -> dict[str, Any]:
    counts = np.array([one.counts for one in done], np.int64).sum(axis=0)
    fates = [one.fate for one in done]
    facts = Facts(title=note["title"], unlabelled=bool(counts[2]))
    read = layout.write_lists(out, items, [one.found for one in done], facts)
    total = max(int(counts.sum()), 1)
    shares = zip(("foreground", "background", "unlabelled"), (counts / total).tolist(), strict=True)
    summary = {
        **note,
        "complete": True,
        "pictures": len(items),
        "picture_files": {fate: count for fate in get_args(Fate) if (count := fates.count(fate))},
        "share_of_pixels": {name: round(share, 6) for name, share in shares},
        "read_with": read,
    }
    write_json(out / NOTE, summary)
    return {"out": str(out), **summary}


def print_summary(summary: dict[str, Any]) -> None:
    """Print what was exported, and how to read it."""
    for line in _list_lines(summary):
        console.say(line)


def _list_lines(summary: dict[str, Any]) -> Iterator[str]:
    yield (
        f"exported {summary['title']}: {summary['pictures']} pictures to {summary['out']} "
        f"({summary['format']})"
    )
    shares = summary["share_of_pixels"]
    yield (
        f"pixels   {shares['foreground']:.1%} foreground, {shares['background']:.1%} background, "
        f"{shares['unlabelled']:.1%} unlabelled"
    )
    fates = summary["picture_files"]
    if summary["images"] != "none":
        yield f"pictures {', '.join(f'{count} {fate}' for fate, count in fates.items())}"
    elif "turned upright" in fates:
        yield f"pictures {fates['turned upright']} are turned by EXIF; labels are of the picture as shown"
    how, *notes = summary["read_with"]
    yield f"read     {how}"
    for line in notes:
        yield f"note     {line}"
