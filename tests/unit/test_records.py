"""Records of many pictures, packed."""

from __future__ import annotations

import gc
import pathlib
import pickle
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from dsrg.places import parse_place
from dsrg.sources import Record, Records
from dsrg.sources.records import list_clashes, pack_records
from dsrg.sources.regions import Drawing

FIELDS = ("id", "split", "name", "picture", "mask", "saliency", "mask_name")


def list_fields(record: Record) -> list[object]:
    return [record.image_labels.tolist(), *(getattr(record, name) for name in FIELDS)]


def build_record(name: str, picture: Path | int, **fields: object) -> Record:
    return Record(name, "", np.array([True, False]), name, picture, **fields)  # type: ignore[arg-type]


def make_records(count: int, root: Path = Path("/pictures")) -> Iterator[Record]:
    """Make records of files: three folders of pictures, two of masks, some without."""
    for number in range(count):
        name = f"photograph-{number:06d}"
        yield Record(
            id=name,
            split=("train", "val", "")[number % 3],
            image_labels=np.arange(5) == number % 5,
            name=f"images/{number % 3}/{name}.jpg",
            picture=root / "images" / str(number % 3) / f"{name}.jpg",
            mask=root / "masks" / str(number % 2) / f"{name}.png" if number % 4 else None,
            saliency=root / "saliency" / f"{name}.png" if number % 5 else None,
            mask_name=f"masks/{name}.png",
        )


def test_packed_records_are_the_records() -> None:
    given = list(make_records(5000))  # more than are packed at a time
    packed = pack_records(iter(given))
    assert len(packed) == 5000
    assert [list_fields(record) for record in packed] == [list_fields(record) for record in given]
    assert packed.ids.tolist() == [record.id for record in given]
    assert packed.splits.tolist() == [record.split for record in given]
    assert_array_equal(packed.image_labels, [record.image_labels for record in given])
    assert packed.have("mask").tolist() == [record.mask is not None for record in given]
    assert packed.have("saliency").tolist() == [record.saliency is not None for record in given]


def test_a_place_may_be_a_number_a_drawing_a_url_or_in_no_folder() -> None:
    drawing = Drawing((3, 4), ())
    given = [
        build_record("a", 7),
        build_record("b", Path("b.jpg"), mask=drawing),
        build_record("c", parse_place("s3://bucket/images/ä #1.jpg"), mask=parse_place("s3://bucket/c.png")),
        build_record("d", 0, mask=drawing),
    ]
    packed = pack_records(given)
    assert [list_fields(record) for record in packed] == [list_fields(record) for record in given]
    assert packed[1].mask is drawing
    assert type(packed[2].picture) is type(given[2].picture)


def test_a_part_is_a_view_and_travels_alone() -> None:
    packed = pack_records(make_records(3000))
    part = packed[100:164]
    assert isinstance(part, Records)
    assert np.shares_memory(part.image_labels, packed.image_labels)
    sent = pickle.dumps(part)
    assert len(sent) < 30_000
    assert [list_fields(r) for r in pickle.loads(sent)] == [list_fields(r) for r in list(packed)[100:164]]


def test_some_rows_and_other_splits() -> None:
    packed = pack_records(make_records(10))
    taken = packed.take(np.array([7, 2]))
    assert taken.ids.tolist() == [packed[7].id, packed[2].id]
    assert list_fields(taken[0]) == list_fields(packed[7])
    changed = packed.with_splits(np.array(["val"] * 10))
    assert set(changed.splits.tolist()) == {"val"}
    assert packed[0].split == "train"
    assert changed[3].picture == packed[3].picture


def test_nothing_can_be_packed() -> None:
    packed = pack_records([])
    assert len(packed) == 0
    assert not len(packed.ids)
    assert list(packed[:5]) == []


def test_labels_cannot_be_changed_by_a_reader() -> None:
    packed = pack_records(make_records(2))
    with pytest.raises(ValueError, match="read-only"):
        packed[0].image_labels[0] = False


def test_a_name_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(UnicodeEncodeError):
        pack_records([build_record("a\udcff", 0)])


def test_clashes_are_told_once_with_all_names() -> None:
    names = ("a/1.jpg", "a/1.png", "a__1.jpg", "b.jpg", "c.jpg", "c.png")
    ids = ("a__1", "a__1", "a__1", "b", "c", "c")
    pairs = zip(ids, names, strict=True)
    records = pack_records(Record(key, "", np.array([True]), name, 0) for key, name in pairs)
    assert list(list_clashes(records)) == [
        "a/1.jpg and a/1.png and a__1.jpg: both become the id `a__1`: rename one",
        "c.jpg and c.png: both become the id `c`: rename one",
    ]


def leave_out_interning() -> list[tracemalloc.Filter]:
    """Leave out the lines of pathlib that intern names: there the interpreter's table of all may double."""
    lines = Path(pathlib.__file__).read_text(encoding="utf-8").splitlines()
    found = [number for number, line in enumerate(lines, start=1) if "sys.intern" in line]
    return [tracemalloc.Filter(False, pathlib.__file__, lineno=number) for number in found]


def test_a_packed_record_weighs_a_third_of_a_record() -> None:
    filters = leave_out_interning()

    def weigh(make: Callable[[Iterator[Record]], Sequence[Record]]) -> float:
        gc.collect()
        tracemalloc.start()
        kept = make(make_records(10_000))
        gc.collect()
        traces = tracemalloc.take_snapshot().filter_traces(filters).statistics("filename")
        tracemalloc.stop()
        return sum(trace.size for trace in traces) / len(kept)

    packed, single = weigh(pack_records), weigh(list)
    assert packed < 300
    assert packed < single / 3
