"""Broken input by the thousand: bytes cut, doubled and overwritten, and trees with a value gone wild."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

# Numbers that lengths, offsets and counts are compared with.
_EDGES = (
    b"\x00",
    b"\xff",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\x80\x00\x00\x00",
)
WILD_TEXT = (
    *(
        "",
        " ",
        "\x00",
        "a\x00b",
        "\ud800",
        "../../etc/passwd",
        "/etc/passwd",
        "C:\\a.jpg",
        "..",
        ".",
        "a/../../b",
    ),
    *(
        "background",
        "x",
        "x" * 5000,
        "a\nb",
        "\x1b[31m",
        "\u202e",
        "e\u0301",
        "é",
        "{}",
        "=1+1",
        "|",
        "x|y;z",
        ",,",
    ),
)
WILD_VALUES = (
    *(None, True, False, 0, 1, -1, 255, 256, 2**31, 2**63, 10**30, -(10**30), 0.5, 1e308, 1e-308),
    *(float("inf"), float("-inf"), float("nan"), [], {}, [[]], [None], {"": None}, [0] * 300, *WILD_TEXT),
)


@st.composite
def mangle(draw: st.DrawFn, seeds: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """Draw one of `seeds` with up to six changes; `tokens` are pieces that the format gives a meaning."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        change = draw(st.sampled_from(("overwrite", "insert", "cut", "double", "end", "flip", "splice")))
        piece = draw(st.one_of(st.sampled_from((*_EDGES, *tokens)), st.binary(min_size=1, max_size=8)))
        length = draw(st.integers(1, 64))
        if change == "overwrite":
            data[at : at + len(piece)] = piece
        elif change == "insert":
            data[at:at] = piece
        elif change == "cut":
            del data[at : at + length]
        elif change == "double":
            data[at:at] = bytes(data[at : at + length]) * draw(st.integers(1, 20))
        elif change == "end":
            del data[at:]
        elif change == "splice":
            other = draw(st.sampled_from(seeds))
            data[at:] = other[min(at, len(other)) :]
        elif at < len(data):
            data[at] ^= 1 << draw(st.integers(0, 7))
    return bytes(data)


@st.composite
def run_wild(draw: st.DrawFn, tree: Any) -> Any:
    """Draw `tree`, of mappings and lists, with up to three places replaced, removed or doubled."""
    tree = copy.deepcopy(tree)
    for _ in range(draw(st.integers(1, 3))):
        places = list(_list_places(tree))
        if not places:
            return tree
        parent, key = draw(st.sampled_from(places))
        change = draw(st.sampled_from(("replace", "replace", "remove", "add", "swap")))
        value = copy.deepcopy(draw(st.sampled_from(WILD_VALUES)))
        if change == "remove":
            del parent[key]
        elif change == "swap":
            other, place = draw(st.sampled_from(places))
            parent[key] = copy.deepcopy(other[place]) if _reaches(other, place) else value
        elif change == "add" and isinstance(parent, dict):
            parent[draw(st.sampled_from(WILD_TEXT))] = value
        elif change == "add":
            parent.insert(key, value)
        else:
            parent[key] = value
    return tree


def _list_places(tree: Any) -> Any:
    """List every (mapping, key) and (list, number) of a tree."""
    if not isinstance(tree, dict | list):
        return
    for key in list(tree) if isinstance(tree, dict) else range(len(tree)):
        yield tree, key
        yield from _list_places(tree[key])


def _reaches(parent: Any, key: Any) -> bool:
    return key in parent if isinstance(parent, dict) else key < len(parent)


def dump_json(tree: Any) -> bytes:
    """Write a tree as JSON that may hold what UTF-8 cannot: lone halves of surrogate pairs, as escapes."""
    return json.dumps(tree).encode()
