"""Region growing against the authors' own output; provenance in README.md beside this file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from slow_growing import grow_slowly, grow_with_scipy

from dsrg.growing import grow_label_map, grow_seeds, grow_seeds_batch
from dsrg.labels import collapse_planes, expand_label_map

CASES = 60


@pytest.fixture(scope="module")
def golden() -> dict[str, NDArray[Any]]:
    with np.load(Path(__file__).with_name("growing_official.npz")) as file:
        return dict(file)


def read_case(golden: dict[str, NDArray[Any]], case: int) -> tuple[dict[str, Any], NDArray[np.bool_]]:
    shape = tuple(golden[f"shape_{case}"])
    planes = {
        name: np.unpackbits(golden[f"{name}_{case}"], count=int(np.prod(shape))).reshape(shape).astype(bool)
        for name in ("cues", "seeds")
    }
    fg_threshold, bg_threshold = golden[f"thr_{case}"]
    given = {
        "cues": planes["cues"],
        "probs": golden[f"probs_{case}"],
        "present": golden[f"present_{case}"],
        "fg_threshold": float(fg_threshold),
        "bg_threshold": float(bg_threshold),
    }
    return given, planes["seeds"]


@pytest.mark.parametrize("case", range(CASES))
def test_equals_the_official_seeds(golden: dict[str, NDArray[Any]], case: int) -> None:
    given, expected = read_case(golden, case)
    np.testing.assert_array_equal(grow_seeds(**given), expected)


@pytest.mark.parametrize("peer", [grow_slowly, grow_with_scipy])
def test_the_references_equal_the_official_seeds(
    golden: dict[str, NDArray[Any]], peer: Callable[..., NDArray[np.bool_]]
) -> None:
    for case in range(CASES):
        given, expected = read_case(golden, case)
        np.testing.assert_array_equal(peer(**given), expected, err_msg=f"case {case}")


def test_the_cases_grow_and_hold_pixels_with_several_cues(golden: dict[str, NDArray[Any]]) -> None:
    cases = [read_case(golden, case) for case in range(CASES)]
    assert sum(bool(seeds.sum() > given["cues"].sum()) for given, seeds in cases) >= 50
    assert sum(bool((given["cues"].sum(axis=0) > 1).any()) for given, _ in cases) > 0


def test_the_label_map_form_gives_the_same_on_single_cues(golden: dict[str, NDArray[Any]]) -> None:
    for case in range(CASES):
        given, _ = read_case(golden, case)
        cue = collapse_planes(given.pop("cues"))
        probs, present = given.pop("probs"), given.pop("present")
        planes = grow_seeds(expand_label_map(cue, len(probs)), probs, present, **given)
        seed = grow_label_map(cue, probs[present], present, **given)
        assert (planes.sum(axis=0) <= 1).all()
        np.testing.assert_array_equal(seed, collapse_planes(planes), err_msg=f"case {case}")


def test_the_batch_form_gives_the_same(golden: dict[str, NDArray[Any]]) -> None:
    given, expected = read_case(golden, 0)
    thresholds = {name: given[name] for name in ("fg_threshold", "bg_threshold")}
    cues, probs = given["cues"], given["probs"]
    seeds = grow_seeds_batch(
        np.stack([cues, cues]),
        np.stack([probs, probs]),
        [given["present"], given["present"][:1]],
        **thresholds,
    )
    np.testing.assert_array_equal(seeds[0], expected)
    np.testing.assert_array_equal(seeds[1], grow_seeds(cues, probs, given["present"][:1], **thresholds))
