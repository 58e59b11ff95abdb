"""Whatever is written into a store is read from it, and its bytes depend on nothing else."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from dsrg.groups import finish_store, iterate_shards, write_rows
from dsrg.image import fit_size, place_on_canvas, scale_label_map
from dsrg.labels import collapse_planes, expand_label_map
from dsrg.store import ImageStore, Index, LabelStore, create_image_store, create_label_store

CANVAS = 6
sizes = st.tuples(st.integers(1, CANVAS), st.integers(1, CANVAS))
names = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1, max_size=8)


@st.composite
def data_sets(draw: st.DrawFn) -> tuple[Index, list[np.ndarray]]:
    ids = sorted(draw(st.sets(names, min_size=1, max_size=5)))
    shapes = [draw(sizes) for _ in ids]
    pictures = [draw(hnp.arrays(np.uint8, (*shape, 3))) for shape in shapes]
    splits = draw(st.lists(st.sampled_from(["train", "val"]), min_size=len(ids), max_size=len(ids)))
    image_labels = draw(hnp.arrays(bool, (len(ids), 2)))
    table = np.array(shapes, np.int32)
    return Index(("x", "y"), np.array(ids), np.array(splits), table, table * 3, image_labels), pictures


@settings(max_examples=15, deadline=None)
@given(data_sets())
def test_image_stores_give_back_what_they_were_given(data: tuple[Index, list[np.ndarray]]) -> None:
    index, pictures = data
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.zarr"
        create_image_store(path, index, canvas=CANVAS, source="folder")
        canvases = np.stack([place_on_canvas(picture, CANVAS, fill=0) for picture in pictures])
        for _, rows in iterate_shards(len(index), 64):
            write_rows(path, "image", rows, canvases[rows])
        finish_store(path, digest="d")
        store = ImageStore(path)
        for row, picture in enumerate(pictures):
            assert np.array_equal(store.read_image(row), picture)
        assert store.index.ids.tolist() == index.ids.tolist()
        assert store.index.splits.tolist() == index.splits.tolist()
        assert np.array_equal(store.index.image_labels, index.image_labels)


@settings(max_examples=15, deadline=None)
@given(st.lists(sizes.flatmap(lambda size: hnp.arrays(np.uint8, size)), min_size=1, max_size=4))
def test_label_stores_give_back_what_they_were_given(label_maps: list[np.ndarray]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cues.zarr"
        create_label_store(path, "cue", count=len(label_maps), canvas=CANVAS, attributes={})
        canvases = np.stack([place_on_canvas(label_map, CANVAS, fill=255) for label_map in label_maps])
        write_rows(path, "cue", slice(0, len(label_maps)), canvases)
        store = LabelStore(path, "cue", stage="cues")
        for row, label_map in enumerate(label_maps):
            assert np.array_equal(store.read(row, label_map.shape), label_map)


@given(st.integers(0, 700), st.integers(1, 256))
def test_shards_cover_every_row_once(count: int, shard: int) -> None:
    rows = [row for _, part in iterate_shards(count, shard) for row in range(part.start, part.stop)]
    assert rows == list(range(count))


@given(st.integers(1, 4000), st.integers(1, 4000), st.integers(1, 2048))
def test_a_fitted_size_fits_and_never_grows(height: int, width: int, canvas: int) -> None:
    fitted = fit_size((height, width), canvas)
    assert 1 <= fitted[0] <= min(height, canvas)
    assert 1 <= fitted[1] <= min(width, canvas)
    assert max(fitted) == min(max(height, width), canvas)
    assert fit_size(fitted, canvas) == fitted
    assert fit_size((width, height), canvas) == fitted[::-1]


@given(hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12)), sizes)
def test_scaling_a_label_map_invents_no_id(label_map: np.ndarray, size: tuple[int, int]) -> None:
    scaled = scale_label_map(label_map, size)
    assert scaled.shape == size
    assert set(np.unique(scaled)) <= set(np.unique(label_map))


@given(hnp.arrays(np.uint8, (4, 5), elements=st.sampled_from([0, 1, 2, 3, 255])))
def test_expanding_and_collapsing_are_inverse(label_map: np.ndarray) -> None:
    assert np.array_equal(collapse_planes(expand_label_map(label_map, 4)), label_map)
