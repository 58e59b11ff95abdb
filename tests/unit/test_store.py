"""The Zarr layout: what is written is read, equal data give equal bytes, damage is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tiny_data import hash_tree

from dsrg.groups import StoreError, create_group, finish_store, iterate_shards, open_group, write_rows
from dsrg.store import (
    ImageStore,
    Index,
    LabelStore,
    ScoreStore,
    complete_index,
    count_cells,
    create_image_store,
    create_label_store,
    create_score_store,
)


def build_index(count: int) -> Index:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 9, (count, 2)).astype(np.int32)
    return Index(
        classes=("cat", "red fox"),
        ids=np.array([f"p{i:04d}" for i in range(count)]),
        splits=np.where(np.arange(count) % 3 == 0, "val", "train"),
        sizes=sizes,
        original_sizes=sizes * 2,
        image_labels=rng.random((count, 2)) < 0.5,
    )


def write_images(path: Path, count: int, *, backwards: bool = False) -> np.ndarray:
    index = build_index(count)
    images = np.random.default_rng(1).integers(0, 256, (count, 8, 8, 3), np.uint8)
    create_image_store(path, index, canvas=8, source="folder")
    shards = list(iterate_shards(count, 64))
    for _, rows in reversed(shards) if backwards else shards:
        write_rows(path, "image", rows, images[rows])
    finish_store(path, digest="abc")
    return images


def test_images_come_back_without_their_padding(tmp_path: Path) -> None:
    images = write_images(tmp_path / "images.zarr", 70)
    store = ImageStore(tmp_path / "images.zarr")
    assert len(store) == 70
    assert store.canvas == 8
    assert store.digest == "abc"
    for row in (0, 63, 64, 69):
        height, width = store.index.sizes[row]
        assert np.array_equal(store.read_image(row), images[row, :height, :width])


def test_the_index_comes_back(tmp_path: Path) -> None:
    write_images(tmp_path / "images.zarr", 5)
    index, wanted = ImageStore(tmp_path / "images.zarr").index, build_index(5)
    assert index.classes == wanted.classes
    assert index.num_classes == 3
    assert len(index) == 5
    for name in ("ids", "splits", "sizes", "original_sizes", "image_labels"):
        assert np.array_equal(getattr(index, name), getattr(wanted, name)), name
    assert index.rows("val").tolist() == [0, 3]
    assert index.rows("train").tolist() == [1, 2, 4]


def test_sizes_and_splits_may_come_later(tmp_path: Path) -> None:
    whole = build_index(5)
    blank = Index(
        classes=whole.classes,
        ids=whole.ids,
        splits=np.full(5, "", "<U5"),
        sizes=np.zeros_like(whole.sizes),
        original_sizes=np.zeros_like(whole.sizes),
        image_labels=whole.image_labels,
    )
    create_image_store(tmp_path / "early", whole, canvas=8, source="folder")
    create_image_store(tmp_path / "late", blank, canvas=8, source="folder")
    complete_index(tmp_path / "late", whole)
    assert hash_tree(tmp_path / "late") == hash_tree(tmp_path / "early")


def test_equal_data_give_equal_bytes_in_any_order(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 130)
    write_images(tmp_path / "b", 130, backwards=True)
    assert hash_tree(tmp_path / "a") == hash_tree(tmp_path / "b")


def test_one_file_per_shard(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 130)
    assert len([name for name in hash_tree(tmp_path / "a") if name.startswith("image/c/")]) == 3


def test_leftovers_of_a_killed_writer_are_removed(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 3)
    before = hash_tree(tmp_path / "a")
    (tmp_path / "a" / "image" / "c" / "0.deadbeef.partial").write_bytes(b"half")
    finish_store(tmp_path / "a", digest="abc")
    assert hash_tree(tmp_path / "a") == before


def test_parts_of_shards_are_refused(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 130)
    block = np.zeros((10, 8, 8, 3), np.uint8)
    with pytest.raises(ValueError, match=r"`rows` must be whole shards of 64, got 60 to 70"):
        write_rows(tmp_path / "a", "image", slice(60, 70), block)
    with pytest.raises(ValueError, match=r"got 0 to 10"):
        write_rows(tmp_path / "a", "image", slice(0, 10), block)


def test_label_maps_are_unlabelled_until_written(tmp_path: Path) -> None:
    create_label_store(tmp_path / "t", "gt_label", count=300, canvas=4, attributes={"available": True})
    maps = np.arange(44 * 16, dtype=np.int64).reshape(44, 4, 4).astype(np.uint8)
    write_rows(tmp_path / "t", "gt_label", slice(256, 300), maps)
    store = LabelStore(tmp_path / "t", "gt_label", stage="ingest")
    assert len(store) == 300
    assert store.attributes["available"] is True
    assert (store.read(0, (4, 4)) == 255).all()
    assert np.array_equal(store.read(257, (3, 2)), maps[1, :3, :2])


def test_scores_are_cut_to_planes_and_cells(tmp_path: Path) -> None:
    array = create_score_store(tmp_path / "s", "cam", count=2, planes=3, grid=5, attributes={})
    scores = np.random.default_rng(0).random((2, 3, 5, 5)).astype(np.float16)
    array[:] = scores
    read = ScoreStore(tmp_path / "s", "cam", stage="cams").read(1, 2, (4, 5))
    assert read.dtype == np.float32
    assert np.array_equal(read, scores[1, :2, :4].astype(np.float32))


def test_cells_are_rounded_up() -> None:
    assert count_cells((321, 8), 8) == (41, 1)


def test_attributes_are_sorted_and_hold_no_time_or_path(tmp_path: Path) -> None:
    create_group(tmp_path / "a", {"b": 1, "a": 2})
    attributes = json.loads((tmp_path / "a" / "zarr.json").read_text())["attributes"]
    assert list(attributes) == ["a", "b", "layout_version"]


def test_missing_store_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"images.zarr` not found. Run: dvc repro ingest"):
        ImageStore(tmp_path / "images.zarr")


def test_what_is_no_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(StoreError, match=r"is no readable Zarr store .* Run: dvc repro -f cues"):
        open_group(tmp_path / "x", stage="cues")


def test_another_layout_and_missing_arrays_are_named(tmp_path: Path) -> None:
    create_group(tmp_path / "a", {})
    with pytest.raises(StoreError, match=r"lacks cue, seed. Run: dvc repro -f cues"):
        open_group(tmp_path / "a", stage="cues", arrays=["cue", "seed"])
    metadata = json.loads((tmp_path / "a" / "zarr.json").read_text())
    metadata["attributes"]["layout_version"] = 99
    (tmp_path / "a" / "zarr.json").write_text(json.dumps(metadata))
    with pytest.raises(StoreError, match=r"has another layout version"):
        open_group(tmp_path / "a", stage="cues")


def test_a_damaged_shard_is_named(tmp_path: Path) -> None:
    write_images(tmp_path / "a", 130)
    shard = next(file for file in (tmp_path / "a" / "image" / "c" / "1").rglob("*") if file.is_file())
    shard.write_bytes(shard.read_bytes()[:100])
    store = ImageStore(tmp_path / "a")
    store.read_image(0)
    with pytest.raises(StoreError, match=r"shard 1 is damaged .* Run: dvc repro -f ingest"):
        store.read_image(64)


def test_a_flipped_bit_never_changes_a_picture(tmp_path: Path) -> None:
    """It is found by the checksum of its chunk, or of the shard's index, or it is one that nobody reads."""
    write_images(tmp_path / "a", 3)
    shard = next(file for file in (tmp_path / "a" / "image" / "c").rglob("*") if file.is_file())
    whole = shard.read_bytes()
    intact = [ImageStore(tmp_path / "a").read_image(row) for row in range(3)]
    places = np.linspace(0, len(whole) - 1, 60).astype(int)
    found = 0
    for place in places:
        shard.write_bytes(whole[:place] + bytes([whole[place] ^ 0x10]) + whole[place + 1 :])
        store = ImageStore(tmp_path / "a")
        for row in range(3):
            try:
                np.testing.assert_array_equal(store.read_image(row), intact[row])
            except StoreError as error:
                assert "shard 0 is damaged" in str(error)  # noqa: PT017
                found += 1
    assert found > 0.95 * len(places)
