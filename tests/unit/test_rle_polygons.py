from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from scipy.ndimage import gaussian_filter, label

from dsrg.exchange import describe_polygons, iterate_regions, settle_unlabelled, write_yolo_lines
from dsrg.polygons import draw_polygon, measure_area, simplify_ring, trace_rings
from dsrg.rle import count_runs, encode_mask

# pycocotools 2.0 speaks to numpy in the way of numpy 1
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
MASKS = arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12)))


def fill(polygon: NDArray[np.float64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Fill a polygon as COCO's own tools do."""
    rles = coco_mask.frPyObjects([polygon.ravel().tolist()], *size)
    return coco_mask.decode(coco_mask.merge(rles)).astype(bool)


def read(*rows: str) -> NDArray[np.bool_]:
    return np.array([[pixel == "#" for pixel in row] for row in rows])


def draw_blobs(rng: np.random.Generator, size: tuple[int, int], smooth: float) -> NDArray[np.uint8]:
    """Draw a label map of broad regions with holes, islands and 255."""
    noise = np.stack([gaussian_filter(rng.normal(size=size), smooth) for _ in range(4)])
    return np.array([0, 1, 2, 255], np.uint8)[noise.argmax(axis=0)]


@given(MASKS)
def test_a_mask_is_encoded_as_coco_does(mask: NDArray[np.bool_]):
    theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_mask(mask) == theirs["counts"].decode()
    assert sum(count_runs(mask)) == mask.size


def test_long_runs_are_encoded_as_coco_does():
    mask = np.zeros((3000, 4000), bool)
    mask[100:2900, 7:3990], mask[1500, 2000] = True, False
    theirs = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert encode_mask(mask) == theirs["counts"].decode()


@given(MASKS)
def test_filling_the_polygons_gives_the_mask_back(mask: NDArray[np.bool_]):
    numbers, count = label(mask, structure=np.ones((3, 3), int))
    filled = np.zeros_like(mask)
    for number in range(1, count + 1):
        one = fill(draw_polygon(numbers == number), mask.shape)  # type: ignore[arg-type]
        assert (one == (numbers == number)).all()
        filled |= one
    assert (filled == mask).all()


def test_borders_run_along_pixel_edges():
    rings = trace_rings(read("....", ".##.", ".##."))
    assert sorted(map(tuple, rings[0].tolist())) == [(1, 1), (1, 3), (3, 1), (3, 3)]
    assert measure_area(rings[0]) == 4


def test_a_hole_runs_the_other_way():
    areas = [measure_area(ring) for ring in trace_rings(read("###", "#.#", "###"))]
    assert sorted(areas) == [-1, 9]


def test_pixels_that_touch_at_a_corner_are_one_region():
    rings = trace_rings(read("#.", ".#"))
    assert len(rings) == 1
    assert measure_area(rings[0]) == 2


def test_two_regions_are_refused():
    with pytest.raises(ValueError, match="one connected region, got 2"):
        draw_polygon(read("#.#"))


def test_a_straight_staircase_becomes_a_line():
    ring = trace_rings(np.tri(60, dtype=bool))[0]
    assert len(ring) > 100
    assert len(simplify_ring(ring, tolerance=1)) <= 5
    assert len(simplify_ring(ring, tolerance=0)) == len(ring)


@pytest.mark.parametrize("smooth", [1.0, 3.0, 12.0])
def test_simplified_polygons_stay_close(smooth: float):
    rng = np.random.default_rng(int(smooth))
    label_map = draw_blobs(rng, (180, 240), smooth)
    annotations = describe_polygons(label_map, tolerance=1)
    regions = list(iterate_regions(label_map))
    assert len(annotations) == len(regions)
    for annotation, (class_id, (row, column), region) in zip(annotations, regions, strict=True):
        whole = np.zeros(label_map.shape, bool)
        whole[row : row + region.shape[0], column : column + region.shape[1]] = region
        filled = fill(np.array(annotation["segmentation"][0]), label_map.shape)
        assert (filled & whole).sum() / (filled | whole).sum() > 0.98
        assert annotation["category_id"] == class_id
        assert annotation["area"] == region.sum()


def test_simplifying_saves_corners():
    label_map = draw_blobs(np.random.default_rng(0), (400, 600), 20)
    counts = [
        sum(len(a["segmentation"][0]) for a in describe_polygons(label_map, tolerance=t)) for t in (0, 1)
    ]
    assert counts[1] < 0.8 * counts[0]


def test_small_regions_can_be_left_out():
    label_map = np.zeros((8, 8), np.uint8)
    label_map[0, 0], label_map[3:6, 3:6] = 2, 1
    assert [c for c, _, _ in iterate_regions(label_map)] == [1, 2]
    assert [c for c, _, _ in iterate_regions(label_map, min_area=2)] == [1]


def test_yolo_lines_hold_shares_of_width_and_height():
    label_map = np.zeros((10, 20), np.uint8)
    label_map[5:10, 10:20] = 3
    words = write_yolo_lines(label_map, tolerance=1).split()
    points = np.array(words[1:], float).reshape(-1, 2)
    assert words[0] == "2"
    assert sorted(map(tuple, points.tolist())) == [(0.5, 0.5), (0.5, 1), (1, 0.5), (1, 1)]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("keep", [1, 255, 255, 2]), ("background", [1, 0, 0, 2]), ("nearest", [1, 1, 2, 2])],
)
def test_unlabelled_pixels_are_settled(rule: str, expected: list[int]):
    label_map = np.array([[1, 255, 255, 2]], np.uint8)
    before = label_map.copy()
    assert settle_unlabelled(label_map, rule=rule).tolist() == [expected]  # type: ignore[arg-type]
    assert (label_map == before).all()


def test_nothing_is_nearest_where_nothing_is_labelled():
    label_map = np.full((3, 3), 255, np.uint8)
    assert (settle_unlabelled(label_map, rule="nearest") == 255).all()
