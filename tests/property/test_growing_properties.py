"""Invariants of region growing on drawn inputs, and equality with the slow loop."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from slow_growing import grow_slowly, grow_with_scipy

from dsrg.growing import grow_label_map, grow_seeds
from dsrg.labels import IGNORE_INDEX, collapse_planes, expand_label_map


@st.composite
def draw_case(draw: st.DrawFn) -> dict[str, Any]:
    """Draw cues (sparse or dense, overlapping or not) and probabilities with many ties."""
    classes = draw(st.integers(1, 5))
    shape = (classes, draw(st.integers(1, 9)), draw(st.integers(1, 9)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    cues = rng.random(shape) < draw(st.sampled_from([0.02, 0.1, 0.4]))
    levels = np.array([0.0, 0.3, 0.5, 0.7, 0.85, 0.9, 0.99, 1.0], np.float32)
    probs = rng.choice(levels, shape)
    present = np.flatnonzero(rng.random(classes) < 0.7)
    return {
        "cues": cues,
        "probs": probs,
        "present": present if present.size else np.array([0]),
        "fg_threshold": draw(st.sampled_from([0.3, 0.5, 0.85])),
        "bg_threshold": draw(st.sampled_from([0.3, 0.7, 0.99])),
    }


@settings(max_examples=150, deadline=None)
@given(draw_case())
def test_equals_the_slow_loop(case: dict[str, Any]) -> None:
    seeds = grow_seeds(**case)
    np.testing.assert_array_equal(seeds, grow_slowly(**case))
    np.testing.assert_array_equal(seeds, grow_with_scipy(**case))


@settings(max_examples=100, deadline=None)
@given(draw_case())
def test_seeds_contain_the_cues_and_add_present_classes_only(case: dict[str, Any]) -> None:
    seeds, cues = grow_seeds(**case), case["cues"]
    assert (seeds >= cues).all()
    absent = np.setdiff1d(np.arange(len(cues)), case["present"])
    np.testing.assert_array_equal(seeds[absent], cues[absent])


@settings(max_examples=100, deadline=None)
@given(draw_case())
def test_flips_and_transposes_commute_with_growing(case: dict[str, Any]) -> None:
    seeds = grow_seeds(**case)
    for turn in (lambda x: x[:, :, ::-1], lambda x: x[:, ::-1], lambda x: x.swapaxes(1, 2)):
        turned = {**case, "cues": turn(case["cues"]), "probs": turn(case["probs"])}
        np.testing.assert_array_equal(grow_seeds(**turned), turn(seeds))


@settings(max_examples=100, deadline=None)
@given(draw_case())
def test_growing_twice_adds_nothing_where_cues_are_single(case: dict[str, Any]) -> None:
    case["cues"] = expand_label_map(collapse_planes(case["cues"]), len(case["cues"]))
    seeds = grow_seeds(**case)
    np.testing.assert_array_equal(grow_seeds(**{**case, "cues": seeds}), seeds)


@settings(max_examples=100, deadline=None)
@given(draw_case())
def test_the_label_map_form_equals_the_planes(case: dict[str, Any]) -> None:
    cue, present = collapse_planes(case["cues"]), case["present"]
    thresholds = {name: case[name] for name in ("fg_threshold", "bg_threshold")}
    planes = grow_seeds(expand_label_map(cue, len(case["cues"])), case["probs"], present, **thresholds)
    seed = grow_label_map(cue, case["probs"][present], present, **thresholds)
    np.testing.assert_array_equal(seed, collapse_planes(planes))
    labelled = cue != IGNORE_INDEX
    np.testing.assert_array_equal(seed[labelled], cue[labelled])
