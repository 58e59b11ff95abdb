"""What must hold for a data set, and what a person should know of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dsrg.duplicates import find_near_duplicates
from dsrg.image import DecodeError
from dsrg.sources.base import SPLITS, Source, SourceError
from dsrg.sources.ids import check_ids
from dsrg.store import Index

MAX_LISTED = 50


def check_size(found: NDArray[np.uint8], original_size: Sequence[int] | None) -> None:
    """Refuse a map, (H, W), of another size than its picture; None is a picture that is broken itself.

    Raises
    ------
    DecodeError
    """
    if original_size is not None and found.shape != tuple(original_size):
        raise DecodeError(
            f"is {found.shape[0]} x {found.shape[1]} pixels, its picture "
            f"{original_size[0]} x {original_size[1]} (height x width): make them equal"
        )


def check_gt_label(
    gt_label: NDArray[np.uint8], original_size: Sequence[int] | None, *, num_classes: int
) -> None:
    """Refuse a mask of another size than its picture, or with ids that no class has.

    Parameters
    ----------
    gt_label : (H, W) uint8
        As read. Not modified.
    original_size : (height, width) or None
        Of the picture as read; None where the picture is broken.
    num_classes : int
        ``C``, background included.

    Raises
    ------
    DecodeError
    """
    check_size(gt_label, original_size)
    check_ids(gt_label, num_classes=num_classes)


def check_index(source: Source, index: Index, *, split_given: bool) -> None:
    """Refuse a data set that cannot be learned from, or not be scored on.

    Parameters
    ----------
    source : Source
        Says what the error calls the data set, and what to do about a class without pictures.
    index : Index
    split_given : bool
        Whether the split is the user's own; decides the way out that the error names.

    Raises
    ------
    SourceError
        A class that no picture has, one that no train picture has, or an empty split.
    """
    way_out = "mark some" if split_given else "add pictures, or change `ingest.val_fraction`"
    problems = [f"no picture is in split {s}: {way_out}" for s in SPLITS if not len(index.rows(s))]
    counts = index.image_labels.sum(axis=0)
    train_counts = index.image_labels[index.rows("train")].sum(axis=0)
    for name, count, train_count in zip(index.classes, counts, train_counts, strict=True):
        if not count:
            problems.append(f"class `{name}`: no picture has it: {source.way_out}")
        elif not train_count:
            problems.append(f"class `{name}`: none of its {count} pictures is in split train: move some")
    if problems:
        raise SourceError(source.where, problems)


def summarise_data(
    source: Source,
    index: Index,
    hashes: NDArray[np.uint64],
    held: Sequence[Sequence[int] | None],
    *,
    max_bits: int,
    split_given: bool,
) -> dict[str, Any]:
    """Summarise a data set for the check report; lists are cut after 50 entries.

    Parameters
    ----------
    source : Source
    index : Index
    hashes : (N,) uint64
        Perceptual hashes of the pictures.
    held : sequence of N (sequence of int, or None)
        Foreground class ids in every mask, sorted; None where there is no mask.
    max_bits : int
        Distance up to which hashes count as near-duplicates.
    split_given : bool
        Whether the split is the user's own.

    Returns
    -------
    dict
        For JSON.
    """
    rows = {split: index.rows(split) for split in SPLITS}
    unlabelled = index.ids[~index.image_labels.any(axis=1)]
    without_mask = np.array([ids is None for ids in held]) & source.gt_available
    without_saliency = ~source.records.have("saliency") & source.saliency_available
    contradicting = [
        name
        for name, ids, wanted in zip(index.ids, held, index.image_labels, strict=True)
        if ids is not None and list(ids) != (np.flatnonzero(wanted) + 1).tolist()
    ]
    return {
        "classes": list(index.classes),
        "split": "given" if split_given else "by hash of id",
        "pictures": {split: len(rows[split]) for split in SPLITS},
        "per_class": {
            split: dict(zip(index.classes, index.image_labels[rows[split]].sum(axis=0).tolist(), strict=True))
            for split in SPLITS
        },
        "height": _summarise(index.original_sizes[:, 0]),
        "width": _summarise(index.original_sizes[:, 1]),
        "scaled_down": int((index.sizes != index.original_sizes).any(axis=1).sum()),
        "near_duplicates": _summarise_duplicates(index, hashes, rows, max_bits),
        "without_class": _list_first(unlabelled),
        "without_row": _list_first(source.without_row),
        "masks": {
            "available": source.gt_available,
            "missing": _list_first(index.ids[without_mask]),
            "contradict_image_labels": _list_first(contradicting),
        },
        "saliency": {
            "available": source.saliency_available,
            "missing": _list_first(index.ids[without_saliency]),
        },
        "remarks": _list_first(source.remarks),
    }


def _summarise(lengths: NDArray[np.int32]) -> dict[str, int]:
    return {"min": int(lengths.min()), "median": int(np.median(lengths)), "max": int(lengths.max())}


def _summarise_duplicates(
    index: Index, hashes: NDArray[np.uint64], rows: dict[str, NDArray[np.int64]], max_bits: int
) -> dict[str, Any]:
    pairs = find_near_duplicates(hashes[rows["train"]], hashes[rows["val"]], max_bits=max_bits)
    first = [
        {"train": str(index.ids[rows["train"][a]]), "val": str(index.ids[rows["val"][b]]), "bits": int(bits)}
        for a, b, bits in pairs[:MAX_LISTED]
    ]
    return {"max_bits": max_bits, "across_splits": len(pairs), "first": first}


def _list_first(names: Sequence[str] | NDArray[np.str_]) -> dict[str, Any]:
    return {"count": len(names), "first": [str(name) for name in names[:MAX_LISTED]]}
