"""Label maps of pictures of any size: by networks simple enough to know every pixel beforehand."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.nn import functional

from dsrg.drawing import (
    Style,
    Tiling,
    choose_classes,
    draw_label_map,
    interpolate_maps,
    lay_tiles,
    predict_picture,
    weigh_tiles,
)
from dsrg.image import scale_label_map

STYLE: dict[str, Any] = {
    "scales": (1.0,),
    "flip": False,
    "crf": None,
    "max_side": 64,
    "tile": None,
    "overlap": 0,
    "min_peak": 0.01,
}
CRF = {
    "iterations": 2,
    "bilateral_weight": 1.0,
    "bilateral_xy": 5.0,
    "bilateral_rgb": 10.0,
    "gaussian_weight": 1.0,
    "gaussian_xy": 1.0,
}


class ByColour:
    """Calls red pixels 1, green ones 2 and dark ones background, as it sees them."""

    classes = ("background", "red", "green")
    input_size = 32

    def __init__(self) -> None:
        self.seen: list[tuple[int, ...]] = []

    def view(self, images: NDArray[np.uint8], *, scale: float, flip: bool) -> NDArray[np.float32]:
        self.seen.append(images.shape)
        colours = np.moveaxis(images.astype(np.float32), -1, 1) / 255
        background = np.full_like(colours[:, :1], 0.2)
        maps = np.concatenate([background, colours[:, :2]], axis=1) + 1e-6
        return np.asarray(maps / maps.sum(axis=1, keepdims=True))


class ByTile(ByColour):
    """Says the same of all of a view: how red it is on the whole."""

    def view(self, images: NDArray[np.uint8], *, scale: float, flip: bool) -> NDArray[np.float32]:
        red = float(images[..., 0].mean()) / 255
        probs = np.array([1 - red, red, 0], np.float32)
        return np.broadcast_to(probs[None, :, None, None], (1, 3, 4, 4)).copy()


@pytest.fixture
def truth() -> NDArray[np.uint8]:
    label_map = np.zeros((150, 230), np.uint8)
    label_map[20:90, 30:120] = 1
    label_map[70:140, 100:220] = 2
    return label_map


@pytest.fixture
def picture(truth: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0]], np.uint8)[truth]


@pytest.mark.parametrize("size", [(7, 9), (40, 31), (3, 5), (1, 1)])
def test_maps_are_interpolated_as_torch_does(size: tuple[int, int]):
    maps = np.random.default_rng(0).random((3, 7, 9), np.float32)
    expected = functional.interpolate(torch.from_numpy(maps)[None], size=size, mode="bilinear")[0].numpy()
    assert np.allclose(interpolate_maps(maps, size), expected, atol=1e-6)
    rows = slice(size[0] // 3, size[0])
    assert np.allclose(interpolate_maps(maps, size, rows=rows), expected[:, rows], atol=1e-6)


@pytest.mark.parametrize("crf", [None, CRF])
@pytest.mark.parametrize("tile", [None, 48, 64, 500])
def test_every_pixel_is_found_at_once_and_in_tiles(
    picture: NDArray[np.uint8], truth: NDArray[np.uint8], tile: int | None, crf: dict[str, float] | None
):
    before = picture.copy()
    style = Style(**{**STYLE, "tile": tile, "overlap": 16, "crf": crf, "max_side": 96, "scales": (1.0, 1.5)})
    label_map = draw_label_map(ByColour(), picture, style)
    assert label_map.shape == truth.shape
    assert label_map.dtype == np.uint8
    assert (label_map == truth).mean() > 0.97
    assert np.array_equal(picture, before)


def test_a_tile_is_no_larger_than_the_network_needs(picture: NDArray[np.uint8]):
    network = ByColour()
    reports: list[tuple[int, int]] = []
    style = Style(**{**STYLE, "tile": 64, "overlap": 16})
    draw_label_map(network, picture, style, report=lambda *done: reports.append(done))
    assert set(network.seen) == {(1, 32, 32, 3)}
    assert reports == [(number + 1, len(network.seen)) for number in range(len(network.seen))]


def test_no_edge_of_a_tile_shows():
    """Tiles that contradict each other are blended: no step is larger than the ramp's."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (3, 4, 3)).astype(np.uint8).repeat(64, axis=0).repeat(64, axis=1)
    tiling = Tiling(noise.shape, tile=64, overlap=32)
    style = Style(**STYLE)
    planes = tiling.blend(
        noise, lambda window, _: dict(zip(*predict_picture(ByTile(), window, style), strict=True))
    )
    red = planes[1].astype(np.float32)
    assert red.max() - red.min() > 0.3
    steps = max(float(np.abs(np.diff(red, axis=axis)).max()) for axis in (0, 1))
    assert steps < 1 / 32 + 0.002
    assert np.allclose(sum(plane.astype(np.float32) for plane in planes.values()), 1, atol=0.003)


def test_a_blend_of_cuttings_is_the_whole():
    whole = np.random.default_rng(1).random((70, 101)).astype(np.float32)
    picture = np.zeros((70, 101, 3), np.uint8)
    blended = Tiling(picture.shape, tile=32, overlap=10).blend(picture, lambda _, place: {5: whole[place]})
    assert blended.keys() == {5}
    assert np.allclose(blended[5], whole, atol=0.002)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 96, 100, 1000])
@pytest.mark.parametrize("overlap", [0, 1, 16, 32])
def test_tiles_cover_a_side_and_their_weights_add_up_to_one(length: int, overlap: int):
    starts = lay_tiles(length, tile=64, overlap=overlap)
    weights = weigh_tiles(starts, length, tile=64)
    assert all(b - a <= 64 - overlap for a, b in itertools.pairwise(starts))
    assert starts[0] == 0
    assert starts[-1] + weights.shape[1] == length
    total = np.zeros(length)
    for start, row in zip(starts, weights, strict=True):
        total[start : start + len(row)] += row
    assert np.allclose(total, 1)


def test_more_overlap_than_half_a_tile_is_refused():
    with pytest.raises(ValueError, match=r"`overlap` must be from 0 to half of `tile` \(32\), got 33\."):
        lay_tiles(100, tile=64, overlap=33)


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 2)])
@pytest.mark.parametrize("tile", [None, 64])
def test_pictures_of_odd_sizes(size: tuple[int, int], tile: int | None):
    red = np.full((*size, 3), (255, 0, 0), np.uint8)
    label_map = draw_label_map(ByColour(), red, Style(**{**STYLE, "tile": tile, "overlap": 16}))
    assert label_map.shape == size
    assert (label_map == 1).all()


def test_classes_are_chosen_strip_by_strip_as_at_once():
    rng = np.random.default_rng(0)
    probs = rng.random((3, 40, 30)).astype(np.float32)
    found = choose_classes(dict(zip((0, 4, 7), probs, strict=True)), (700, 300))
    expected = np.array([0, 4, 7])[interpolate_maps(probs, (700, 300)).argmax(axis=0)]
    assert np.array_equal(found, expected)


def test_of_equal_classes_the_lowest_wins():
    plane = np.ones((2, 2), np.float32)
    assert choose_classes({3: plane, 2: plane}, (4, 4)).tolist() == [[2] * 4] * 4


def test_of_many_classes_none_that_could_win_is_left_out():
    class Undecided(ByColour):
        classes = tuple(str(k) for k in range(200))

        def view(self, images: NDArray[np.uint8], *, scale: float, flip: bool) -> NDArray[np.float32]:
            maps = np.full((1, 200, 4, 4), 0.994 / 199, np.float32)
            maps[:, 123] = 0.006
            return maps

    picture = np.zeros((10, 10, 3), np.uint8)
    assert (draw_label_map(Undecided(), picture, Style(**STYLE)) == 123).all()


def test_a_crf_is_given_no_more_classes_than_memory_allows(monkeypatch: pytest.MonkeyPatch):
    class Many(ByColour):
        def view(self, images: NDArray[np.uint8], *, scale: float, flip: bool) -> NDArray[np.float32]:
            maps = np.linspace(1, 2, 40, dtype=np.float32)[None, :, None, None].repeat(4, 2).repeat(4, 3)
            return maps / maps.sum(axis=1, keepdims=True)

    given: list[int] = []

    def refine(probs: NDArray[np.float32], image: NDArray[np.uint8], **_: float) -> NDArray[np.float32]:
        given.append(len(probs))
        return probs

    monkeypatch.setattr("dsrg.crf.refine_probs", refine)
    label_map = draw_label_map(Many(), np.zeros((20, 20, 3), np.uint8), Style(**{**STYLE, "crf": CRF}))
    assert given == [24]
    assert (label_map == 39).all()


def test_a_larger_picture_has_smooth_edges(picture: NDArray[np.uint8], truth: NDArray[np.uint8]):
    """Probabilities are enlarged, not label maps: a slanted edge has no steps of several pixels."""
    rows, columns = np.mgrid[0:400, 0:400]
    slanted = np.zeros((400, 400, 3), np.uint8)
    slanted[columns > 100 + rows / 3] = (255, 0, 0)
    label_map = draw_label_map(ByColour(), slanted, Style(**{**STYLE, "max_side": 50}))
    edge = label_map.argmax(axis=1)[20:-20]
    assert np.abs(np.diff(edge)).max() <= 2
    blocky = scale_label_map(label_map[::8, ::8], (400, 400)).argmax(axis=1)[20:-20]
    assert np.abs(np.diff(blocky)).max() >= 8
