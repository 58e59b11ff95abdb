"""What ingest refuses, and what it makes of the rest: shared with ``dsrg check``, so that both agree."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dsrg.duplicates import group_near_duplicates
from dsrg.sources import Source, open_source
from dsrg.sources.splits import choose_splits
from dsrg.store import Index
from tasks.outcomes import Outcomes
from tasks.params import Params

_ADD = {
    "class folder": "lies in no class folder: move it into one",
    "labels.csv": "has no row in labels.csv: add one",
    "labels.json": "has no entry in labels.json: add one",
}
_NAME_ONE = {
    "folder": "no class is named: name one, write `background` if it holds none",
    "voc": "no object is named in its annotation: name one",
}


@dataclass(frozen=True, eq=False)
class Settled:
    """A source whose pictures were decoded, with its split.

    Attributes
    ----------
    source : Source
        Every record has a split.
    index : Index
    looks : (N,) uint64
        Perceptual hashes.
    split_given : bool
        Whether the split is the user's own.
    """

    source: Source
    index: Index
    looks: NDArray[np.uint64]
    split_given: bool


def open_params_source(params: Params, path: Path) -> Source:
    """Open the source that ``params.yaml`` names; `path` is its place on this machine.

    Raises
    ------
    SourceError
    """
    return open_source(
        params.source.kind,
        path,
        image_labels=params.source.image_labels,
        categories=params.source.categories,
        num_train=params.source.num_train,
        num_val=params.source.num_val,
        size=params.source.size,
        random_seed=params.source.random_seed,
    )


def list_refusals(source: Source, *outcomes: Outcomes, strict: bool) -> list[str]:
    """List all for which ingest refuses a source, one line each.

    Parameters
    ----------
    source : Source
    *outcomes : Outcomes
        Of pictures, saliency maps and masks.
    strict : bool
        Refuse pictures without a row or a class, too.
    """
    gaps = _list_gaps(source) if strict else ()
    broken = (problem for found in outcomes for problem in found.problems)
    return list(dict.fromkeys([*source.problems, *gaps, *broken]))


def _list_gaps(source: Source) -> Iterator[str]:
    """List pictures whose labels are missing: forgotten, most likely, unless the user says otherwise."""
    for name in source.without_row:
        yield f"{name}: {_ADD[source.home]}, or leave such pictures out by ingest.strict=false"
    for name in source.without_class:
        yield (
            f"{name}: {_NAME_ONE.get(source.kind, _NAME_ONE['folder'])}, or take all such pictures for "
            "background by ingest.strict=false"
        )


def settle_source(
    source: Source, pictures: Outcomes, *, near_duplicate_bits: int, val_fraction: float
) -> Settled:
    """Choose the split, where the source has none, and build the index.

    Parameters
    ----------
    source : Source
    pictures : Outcomes
        Of every record; none of them broken.
    near_duplicate_bits : int
        Distance up to which perceptual hashes count as equal.
    val_fraction : float
        Share held back where ingest chooses the split.
    """
    records = source.records
    split_given = bool((records.splits != "").all())
    if not split_given:
        splits = choose_splits(
            records.ids,
            records.image_labels,
            group_near_duplicates(pictures.looks, max_bits=near_duplicate_bits),
            val_fraction=val_fraction,
        )
        source = replace(source, records=records.with_splits(splits))
    return Settled(source, build_index(source, pictures), pictures.looks, split_given)


def build_index(source: Source, pictures: Outcomes) -> Index:
    """Build the index of all pictures, in the order of their ids."""
    return Index(
        classes=source.classes,
        ids=source.records.ids,
        splits=source.records.splits,
        sizes=pictures.sizes,
        original_sizes=pictures.original_sizes,
        image_labels=source.records.image_labels,
    )
