"""Near-duplicates: found when scaled, recompressed or brightened, not between other pictures."""

from __future__ import annotations

import io

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageEnhance

from dsrg import duplicates
from dsrg.duplicates import find_near_duplicates, group_near_duplicates, hash_image
from dsrg.sources.synthetic import open_synthetic


def count_bits(a: int, b: int) -> int:
    return (a ^ b).bit_count()


def draw_pictures(count: int) -> list[NDArray[np.uint8]]:
    source = open_synthetic(num_train=count, num_val=0, size=160, random_seed=0)
    return [source.reader.read_image(record) for record in source.records]


def test_touched_up_copies_hash_alike() -> None:
    for picture in draw_pictures(6):
        image = Image.fromarray(picture)
        buffer = io.BytesIO()
        image.save(buffer, format="JPEG", quality=40)
        copies = [
            Image.open(buffer).convert("RGB"),
            image.resize((90, 90), Image.Resampling.LANCZOS),
            ImageEnhance.Brightness(image).enhance(0.9),
        ]
        for copy in copies:
            assert count_bits(hash_image(picture), hash_image(np.array(copy))) <= 4


def test_other_pictures_hash_apart() -> None:
    hashes = [hash_image(picture) for picture in draw_pictures(12)]
    distances = [count_bits(a, b) for i, a in enumerate(hashes) for b in hashes[:i]]
    assert min(distances) > 8


def test_a_hash_fits_64_bits_and_leaves_the_picture_alone() -> None:
    picture = draw_pictures(1)[0]
    before = picture.copy()
    assert 0 <= hash_image(picture) < 2**63
    assert np.array_equal(picture, before)


def test_flat_pictures_hash_alike() -> None:
    assert hash_image(np.full((5, 9, 3), 255, np.uint8)) == hash_image(np.full((50, 9, 3), 37, np.uint8)) == 0


def test_pairs_equal_those_of_two_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_MAX_PAIRS_AT_ONCE", 7000)
    rng = np.random.default_rng(0)
    hashes = rng.integers(0, 2**10, 1500).astype(np.uint64)
    others = rng.integers(0, 2**10, 40).astype(np.uint64)
    wanted = [
        [i, j, count_bits(int(a), int(b))]
        for i, a in enumerate(hashes)
        for j, b in enumerate(others)
        if count_bits(int(a), int(b)) <= 1
    ]
    assert find_near_duplicates(hashes, others, max_bits=1).tolist() == wanted


@pytest.mark.parametrize("max_bits", [0, 1, 3, 6, 63])
def test_pairs_found_by_bands_equal_those_of_two_loops(
    max_bits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplicates, "_MAX_PAIRS_AT_ONCE", 100)
    monkeypatch.setattr(duplicates, "_SORTING", -1000)  # as if sorting cost nothing: never each with each
    monkeypatch.setattr(duplicates, "_compare_blocks", None)
    rng = np.random.default_rng(max_bits)
    hashes = rng.integers(0, 2**64, 60, dtype=np.uint64)
    flips = [sum(1 << int(bit) for bit in rng.choice(64, count, replace=False)) for count in range(9)] * 4
    others = np.concatenate([hashes[: len(flips)] ^ np.array(flips, np.uint64), hashes[:5]])
    wanted = [
        [i, j, count_bits(int(a), int(b))]
        for i, a in enumerate(hashes)
        for j, b in enumerate(others)
        if count_bits(int(a), int(b)) <= max_bits
    ]
    assert wanted
    assert find_near_duplicates(hashes, others, max_bits=max_bits).tolist() == wanted


@pytest.mark.parametrize("by_bands", [False, True])
def test_hashes_among_themselves_make_each_pair_once(by_bands: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "_SORTING", -1000 if by_bands else 1000)
    rng = np.random.default_rng(0)
    few = rng.integers(0, 2**64, 30, dtype=np.uint64)
    hashes = np.concatenate([few, few[:7], few[:9] ^ np.uint64(0b101)])
    wanted = [
        [i, j, count_bits(int(a), int(b))]
        for i, a in enumerate(hashes)
        for j, b in enumerate(hashes)
        if i < j and count_bits(int(a), int(b)) <= 2
    ]
    assert len(wanted) >= 16
    assert find_near_duplicates(hashes, max_bits=2).tolist() == wanted


def test_no_pictures_no_pairs() -> None:
    empty = np.zeros(0, np.uint64)
    assert find_near_duplicates(empty, empty, max_bits=4).shape == (0, 3)


def test_groups_chain_through_others() -> None:
    hashes = np.array([0b0000, 0b1110_0000, 0b0001, 0b0011], np.uint64)
    assert group_near_duplicates(hashes, max_bits=1).tolist() == [0, 1, 0, 0]
    assert group_near_duplicates(hashes, max_bits=0).tolist() == [0, 1, 2, 3]
