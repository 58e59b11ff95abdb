"""Outcomes of many pictures, packed."""

from __future__ import annotations

import hashlib

import numpy as np

from tasks.outcomes import Outcome, Outcomes


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_before_anything_is_put_nothing_is_known() -> None:
    outcomes = Outcomes(2)
    assert len(outcomes) == 2
    assert list(outcomes.digests) == ["", ""]
    assert outcomes.held == [None, None]
    assert outcomes.problems == []
    assert outcomes.whole.tolist() == []


def test_what_is_put_is_found_in_its_row() -> None:
    outcomes = Outcomes(4)
    outcomes.put(2, [Outcome(digest=digest("c"), held=[1, 3]), Outcome(problem="d.jpg: is empty")])
    outcomes.put(
        0,
        [
            Outcome(digest=digest("a"), size=(3, 4), original_size=[30, 40], look=2**64 - 1),
            Outcome(problem="b.jpg: is none", held=()),
        ],
    )
    assert list(outcomes.digests) == [digest("a"), "", digest("c"), ""]
    assert outcomes.sizes.tolist() == [[3, 4], [0, 0], [0, 0], [0, 0]]
    assert outcomes.original_sizes[0].tolist() == [30, 40]
    assert outcomes.looks.tolist() == [2**64 - 1, 0, 0, 0]
    assert outcomes.held == [None, (), (1, 3), None]
    assert outcomes.problems == ["b.jpg: is none", "d.jpg: is empty"]
    assert outcomes.whole.tolist() == [0]


def test_some_rows_are_taken_in_their_order() -> None:
    outcomes = Outcomes(3)
    sizes = [(1, 2), (3, 4), (5, 6)]
    outcomes.put(
        0, [Outcome(digest=digest(str(s)), size=s, original_size=s, look=s[0], held=[s[0]]) for s in sizes]
    )
    outcomes.put(1, [Outcome(problem="late: broken")])
    taken = outcomes.take(np.array([2, 1]))
    assert len(taken) == 2
    assert list(taken.digests) == [digest("(5, 6)"), digest("(3, 4)")]
    assert taken.sizes.tolist() == [[5, 6], [3, 4]]
    assert taken.held == [(5,), (3,)]
    assert taken.problems == ["late: broken"]


def test_equal_sets_of_classes_are_one_object() -> None:
    outcomes = Outcomes(2)
    outcomes.put(0, [Outcome(held=[1, 2]), Outcome(held=[1, 2])])
    assert outcomes.held[0] is outcomes.held[1]
